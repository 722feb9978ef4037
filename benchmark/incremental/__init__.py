"""The second setting: classes arrive task by task, and the network as it was before a task is the teacher in it."""
