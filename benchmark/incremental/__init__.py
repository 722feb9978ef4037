"""The second setting: classes arrive task by task, and the network before a task is the teacher for the task."""
