"""Several methods in one: ``crd+kd`` has the terms of both and counts cross-entropy once."""

from collections.abc import Mapping

from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Needs
from kdbench.refusal import Refusal


class Combination(Method):
    """The sum of its members' terms.

    Cross-entropy has the largest weight that any member gives it, or ``ce_weight``, wherever a member uses it. Every
    other term keeps its weight: KD's is 0.9, where published sums such as CRD + KD use 1 (``kd: {weight: 1}``). If a
    member ships another network in the student's place (SimKD's classifier is the teacher's), no other member has
    trained that part.
    """

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, members: Mapping[str, Method], *, ce_weight: float | None
    ) -> None:
        largest = max(member.ce_weight for member in members.values())
        super().__init__(student, teacher, facts, ce_weight=largest if ce_weight is None else ce_weight)
        self.members = nn.ModuleDict(members)
        for part in self.members.modules():
            if isinstance(part, Method):  # a member, or a method that it wraps
                part.ce_weight = self.ce_weight  # some members also use the task's loss elsewhere
        self.methods = dict(members)
        self.phases = tuple(phase for member in members.values() for phase in member.phases)
        if len({phase.name for phase in self.phases}) < len(self.phases):
            raise Refusal(f"'{'+'.join(members)}' cannot be combined: two members give an initial phase one name")
        cuts = {member.needs().cut for member in members.values()}
        if len(cuts) > 1:
            raise Refusal(f"'{'+'.join(members)}' cannot be combined: its members cut the student at different depths")
        manners = {member.needs().teacher_train for member in members.values() if member.taught}
        if len(manners) > 1:
            raise Refusal(
                f"'{'+'.join(members)}' cannot be combined: for some members the teacher uses the statistics of the "
                "batch, for others its running statistics"
            )

    def needs(self) -> Needs:
        all_needs = [member.needs() for member in self.methods.values()]
        return Needs(
            student=frozenset().union(*(needs.student for needs in all_needs)),
            teacher=frozenset().union(*(needs.teacher for needs in all_needs)),
            teacher_embedding=any(needs.teacher_embedding for needs in all_needs),
            cut=all_needs[0].cut,
            labels=any(needs.labels for needs in all_needs),
            live_teacher=any(needs.live_teacher for needs in all_needs),
            compilable=all(needs.compilable for needs in all_needs),
            input_grad=any(needs.input_grad for needs in all_needs),
            teacher_train=any(needs.teacher_train for needs in all_needs),
            views=max((needs.views for needs in all_needs), key=len),
            whole_batch=any(needs.whole_batch for needs in all_needs),
        )

    def listens(self, phase: str) -> bool:
        return any(member.listens(phase) for member in self.learning(phase).values())

    def learning(self, phase: str) -> dict[str, Method]:
        """The members that learn in this phase; an initial phase applies only to the members that declare it."""
        if phase == "main":
            return self.methods
        return {name: member for name, member in self.methods.items() if phase in {own.name for own in member.phases}}

    def prepare(self) -> None:
        for member in self.methods.values():
            member.prepare()

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        for name, member in self.learning(batch.phase).items():
            # Another member may differentiate the teacher; for this one the teacher is frozen.
            heard = teacher if member.needs().input_grad else teacher.detached()
            for term, value in member.losses(student, heard, batch).items():
                terms[f"{name}.{term}"] = value
        return terms

    def deployed(self, student: Chain) -> nn.Module:
        changed = [shipped for member in self.methods.values() if (shipped := member.deployed(student)) is not student]
        if len(changed) > 1:
            raise Refusal(f"'{'+'.join(self.methods)}' cannot be combined: two members each ship a network")
        return changed[0] if changed else student
