"""Named things: methods, networks, data sets and recipes are all listed and looked up in the same way."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from kdbench.refusal import Refusal, nearest

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A mapping from names to things; an unknown name raises an error that gives the nearest right names."""

    def __init__(self, noun: str, otherwise: str = "") -> None:
        self.noun, self.otherwise = noun, otherwise  # ends the error if no right name is near
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator: ``@METHODS.register("kd")``."""

        def add(thing: T) -> T:
            if name in self._things:
                raise Refusal(f"{self.noun} '{name}' is already registered: a name must be given once")
            self._things[name] = thing
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._things[name]
        except KeyError:
            raise Refusal(f"unknown {self.noun} '{name}'{nearest(name, self._things, self.otherwise)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
