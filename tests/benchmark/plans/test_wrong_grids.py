"""Every wrong grid ends in one sentence that names the file, the line, the place and the nearest right name."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench.methods.method import METHODS

KINDS: dict[str, tuple[dict[str, str | None], str]] = {  # what is changed in a right grid → the sentence
    "unknown method": ({"methods": "[ce, kdd]"}, "3: methods[1]: unknown method 'kdd'; did you mean 'kd'"),
    "unknown member": ({"methods": "ce+kdd"}, "3: methods: unknown method 'kdd'; did you mean 'kd'"),
    "capitals": ({"methods": "KD"}, "3: methods: unknown method 'KD'; did you mean 'kd'"),
    "a method of one's own": (
        {"methods": "logit_mse"},
        f"3: methods: unknown method 'logit_mse'; known: {', '.join(sorted(METHODS))}; to use your own, name its "
        "file with --with or in a grid's 'files'",
    ),
    "a data set of one's own": ({"datasets": "my_images"}, "1: datasets: unknown data set 'my_images'; known: "),
    "a network of one's own": ({"pairs": "mine -> resnet8"}, "2: pairs: unknown network 'mine'; known: "),
    "no method at all": ({"methods": "['']"}, "3: methods[0]: unknown method ''; known: "),
    "unknown network": ({"pairs": "resnet14x0.5 -> resnt8x4"}, "2: pairs: unknown network 'resnt8x4'; did you mean"),
    "unknown data set": ({"datasets": "digit"}, "1: datasets: unknown data set 'digit'; did you mean 'digits'?"),
    "unknown split": ({"datasets": "digits:out"}, "1: datasets: unknown data set 'digits:out'; did you mean 'digits'?"),
    "unknown recipe": ({"recipe": "quik"}, "4: recipe: unknown recipe 'quik'; did you mean 'quick'?"),
    "unknown base": ({"recipe": "{base: quik}"}, "4: recipe.base: unknown recipe 'quik'; did you mean 'quick'?"),
    "unknown teacher's recipe": ({"teacher_recipe": "quik"}, "5: teacher_recipe: unknown recipe 'quik'; did you mean"),
    "unknown grid": ({"include": "quickstrat"}, "5: include: unknown grid 'quickstrat'; did you mean 'quickstart'?"),
    "unknown key": ({"seed": "3"}, "5: seed: unknown key 'seed'; did you mean 'seeds'?"),
    "unknown setting": ({"recipe": "{base: quick, epoch: 3}"}, "4: recipe.epoch: unknown key 'epoch'; did you mean"),
    "unknown base's key": ({"recipe": "{bose: quick}"}, "4: recipe.bose: unknown key 'bose'; did you mean 'base'?"),
    "unknown setting of a custom recipe": ({"recipe": "{epoch: 3}"}, "4: recipe.epoch: unknown key 'epoch'; did you"),
    "a world that splits no batch": ({"world": "4"}, "5: world: must divide the recipe's batch, got 4 and 30"),
    "no world": ({"world": "0"}, "5: world: must be a whole number >= 1, got 0"),
    "unknown optimizer": ({"recipe": "{base: quick, optimizer: sdg}"}, "4: recipe.optimizer: unknown value 'sdg'; did"),
    "unknown parameter": (
        {"methods": "[{kd: {temprature: 2}}]"},
        "3: methods[0].kd.temprature: kd has no parameter 'temprature'; did you mean 'temperature'?",
    ),
    "unknown parameter of a member": (
        {"methods": "[{kd+ce: {kd: {temprature: 2}}}]"},
        "3: methods[0].kd+ce.kd.temprature: kd has no parameter 'temprature'; did you mean 'temperature'?",
    ),
    "unknown parameter of a combination": (
        {"methods": "[{kd+ce: {ce_wait: 2}}]"},
        "3: methods[0].kd+ce.ce_wait: kd+ce has no parameter 'ce_wait'; did you mean 'ce_weight'",
    ),
    "a member twice": ({"methods": "kd+kd"}, "3: methods: a combination must name each method once, got 'kd+kd'"),
    "half a combination": (
        {"methods": "[ce, kd+]"},
        "3: methods[1]: a combination must have a method on either side of each '+', got 'kd+'",
    ),
    "a number for a name": ({"datasets": "[digits, 3]"}, "1: datasets[1]: must be text, got 3"),
    "a mapping for a list": ({"datasets": "{digits: 1}"}, "1: datasets: must be text or a list, got a mapping"),
    "a number for methods": ({"methods": "[ce, 3]"}, "3: methods[1]: must be text or a mapping, got 3"),
    "a list for parameters": ({"methods": "[{kd: [1]}]"}, "3: methods[0].kd: must be a mapping, got a list"),
    "text for a member's": (
        {"methods": "[{kd+ce: {kd: hot}}]"},
        "3: methods[0].kd+ce.kd: must be a mapping, got 'hot'",
    ),
    "an empty method": ({"methods": "[{}]"}, "3: methods[0]: must be a mapping of length >= 1, got an empty mapping"),
    "text for a parameter": (
        {"methods": "[ce, {kd: {temperature: hot}}]"},
        "3: methods[1].kd.temperature: must be a number, got 'hot'",
    ),
    "nothing for a parameter": (
        {"methods": "[{kd: {temperature: }}]"},
        "3: methods[0].kd.temperature: must be a number, got nothing",
    ),
    "true for a parameter": (
        {"methods": "[{kd: {temperature: true}}]"},
        "3: methods[0].kd.temperature: must be a number, got true",
    ),
    "a list for the recipe": ({"recipe": "[quick]"}, "4: recipe: must be text or a mapping, got a list"),
    "an empty recipe": ({"recipe": "{}"}, "4: recipe: the key 'epochs' is missing"),
    "an empty teacher's recipe": ({"teacher_recipe": "{}"}, "5: teacher_recipe: the key 'epochs' is missing"),
    "a base of nothing": ({"recipe": "{base: , epochs: 2}"}, "4: recipe.base: must be text, got nothing"),
    "text for epochs": (
        {"recipe": "{base: quick, epochs: many}"},
        "4: recipe.epochs: must be a whole number, got 'man",
    ),
    "half an epoch": ({"recipe": "{base: quick, epochs: 1.5}"}, "4: recipe.epochs: must be a whole number, got 1.5"),
    "no epochs": ({"recipe": "{base: quick, epochs: 0}"}, "4: recipe.epochs: must be a whole number >= 1, got 0"),
    "negative batch": ({"recipe": "{base: quick, batch: -1}"}, "4: recipe.batch: must be a whole number >= 1, got -1"),
    "lr of zero": ({"recipe": "{base: quick, lr: 0}"}, "4: recipe.lr: must be a number > 0, got 0"),
    "lr that is none": ({"recipe": "{base: quick, lr: .nan}"}, "4: recipe.lr: must be a number, got '.nan'"),
    "lr without end": ({"recipe": "{base: quick, lr: .inf}"}, "4: recipe.lr: must be a number, got '.inf'"),
    "lr that overflows": (
        {"recipe": "{base: quick, lr: 1e999}"},
        "4: a number must be between -2^63 and 2^63, got 1e9",
    ),
    "lr of a network": (
        {"recipe": "{base: quick, lr_of: {resnet8: 0.1, resnet20: -1}, precision: fp16}"},
        "4: recipe.lr_of.resnet20: must be a number > 0, got -1",
    ),
    "lr of an unknown network": (
        {"recipe": "{base: cifar-240, lr_of: {MobileNetv2: 0.1}}"},
        "4: recipe.lr_of.MobileNetv2: unknown network 'MobileNetv2'; did you mean 'MobileNetV2'",
    ),
    "lr of an unknown network in a recipe of one's own": (
        {"recipe": "{epochs: 2, lr_of: {resnt8: 0.1}}"},
        "4: recipe.lr_of.resnt8: unknown network 'resnt8'; did you mean",
    ),
    "yes for true": ({"recipe": "{base: quick, augment: yes}"}, "4: recipe.augment: must be true or false, got 'yes'"),
    "a momentum that nothing would heed": (
        {"recipe": "{base: quick, momentum: 0.8}"},
        "4: recipe.momentum: must be 0.9 with onecycle or adamw, which set their own, got 0.8",
    ),
    "negative milestone": (
        {"recipe": "{base: quick, milestones: [3, -1]}"},
        "4: recipe.milestones[1]: must be a whole number >= 1, got -1",
    ),
    "a word for numbers": (
        {"methods": "[{feature_only: {student_depths: quality}}]"},
        "3: methods[0].feature_only.student_depths: must be a list or 'standard', got 'quality'",
    ),
    "no seeds": ({"seeds": "0"}, "5: seeds: must be a whole number >= 1, got 0"),
    "a negative seed": ({"seeds": "[0, -2]"}, "5: seeds[1]: must be a whole number >= 0, got -2"),
    "seeds in halves": ({"seeds": "1.5"}, "5: seeds: must be a whole number or a list, got 1.5"),
    "seeds in words": ({"seeds": "three"}, "5: seeds: must be a whole number or a list, got 'three'"),
    "true seeds": ({"seeds": "true"}, "5: seeds: must be a whole number or a list, got true"),
    "a true seed": ({"seeds": "[true]"}, "5: seeds[0]: must be a whole number, got true"),
    "seeds of nothing": ({"seeds": ""}, "5: seeds: must be a whole number or a list, got nothing"),
    "a seed twice": ({"seeds": "[1, 1]"}, "5: seeds[1]: 1 is listed twice"),
    "a seed too large": ({"seeds": f"[{10**30}]"}, "5: a number must be between -2^63 and 2^63, got 1000"),
    "a seed of many digits": ({"seeds": f"[{'9' * 5000}]"}, "5: a number must be between -2^63 and 2^63, got 9999"),
    "too many seeds": ({"seeds": f"{10**9}"}, "1: a grid must not declare more than 100,000 cells, got 2,000,000,000"),
    "no teacher seeds": ({"teacher_seeds": "[]"}, "5: teacher_seeds: must be a list of length >= 1, got an empty list"),
    "no data sets": ({"datasets": "[]"}, "1: datasets: must be a list of length >= 1, got an empty list"),
    "no methods": ({"methods": "[]"}, "3: methods: must be a list of length >= 1, got an empty list"),
    "a method twice": ({"methods": "[kd, ce, kd]"}, "3: methods[2]: 'kd' is listed twice"),
    "a pair without arrow": (
        {"pairs": "resnet14 resnet8"},
        "2: pairs: a pair must be written 'teacher -> student', got",
    ),
    "half a pair": ({"pairs": "[a -> ]"}, "2: pairs[0]: a pair must be written 'teacher -> student', got 'a ->'"),
    "a pair of three": ({"pairs": "resnet8 -> resnet8 -> resnet8"}, "2: pairs: unknown network 'resnet8 -> resnet8'"),
    "an imported teacher without its digest": (
        {"pairs": "[resnet14 -> resnet8, resnet8@12 -> resnet8]"},
        "2: pairs[1]: an imported teacher must be named NETWORK@DIGEST as its import printed, got 'resnet8@12'",
    ),
    "a student that was imported": (
        {"pairs": "resnet14 -> resnet8@0123456789ab"},
        "2: pairs: unknown network 'resnet8@0123456789ab'; did you mean",
    ),
    "a depth that is not 6n + 2": ({"pairs": "resnet15 -> resnet8"}, "2: pairs: a resnet's depth must be 6n + 2"),
    "a width beyond all": ({"pairs": f"resnet8x{10**20} -> resnet8"}, "2: pairs: a resnet's depth must be 6n + 2"),
    "no data set's key": ({"datasets": None}, "1: the key 'datasets' is missing"),
    "no method's key": ({"methods": None}, "1: the key 'methods' is missing"),
    "no recipe's key": ({"recipe": None}, "1: the key 'recipe' is missing"),
    "neither pairs nor students": ({"pairs": None}, "1: the key 'pairs' or 'students' is missing"),
    "pairs and students": (
        {"students": "resnet8"},
        "2: pairs: a grid must name either pairs, or students and teachers",
    ),
    "no teacher": (
        {"pairs": None, "students": "resnet8"},
        "4: students: 'kd' needs a teacher: add 'teachers' or 'pairs'",
    ),
    "a wrong teacher": (
        {"pairs": None, "students": "resnet8", "teachers": "[resnet14, resnet9]"},
        "5: teachers[1]: a resnet's depth must be 6n + 2",
    ),
    "a sweep of nothing": (
        {"methods": "[{kd: {weight: {sweep: []}}}]"},
        "3: methods[0].kd.weight.sweep: a sweep must be a list of values, got an empty list",
    ),
    "a sweep of one": (
        {"methods": "[{kd: {weight: {sweep: 3}}}]"},
        "3: methods[0].kd.weight.sweep: a sweep must be a list of values, got 3",
    ),
    "a sweep of words": (
        {"methods": "[{kd: {weight: {sweep: [1, hot]}}}]"},
        "3: methods[0].kd.weight: must be a number, got 'hot'",
    ),
    "a value twice in a sweep": (
        {"methods": "[{kd: {weight: {sweep: [1, 2, 1]}}}]"},
        "3: methods[0].kd.weight.sweep[2]: 1 is listed twice",
    ),
    "a sweep of a setting": (
        {"recipe": "{base: quick, lr: {sweep: [1, 2]}}"},
        "4: recipe.lr: must be a number, got a ma",
    ),
    "a file that is not there": ({"files": "mine.py"}, "5: files: mine.py: no such file"),
    "a file that is no Python": ({"files": "grid.yaml"}, "5: files: grid.yaml must be a Python file"),
    "an include that is not there": ({"include": "other.yaml"}, "5: include: other.yaml: no such file"),
    "an include of a folder": ({"include": "."}, "5: include: .: must be a YAML file, got a folder"),
    "an include of itself": ({"include": "grid.yaml"}, "5: include: grid.yaml: a grid must not include itself"),
    "an include of nothing": ({"include": "[]"}, "5: include: must be a list of length >= 1, got an empty list"),
    "a key that changes nothing of an include": (
        dict.fromkeys(["datasets", "pairs", "methods", "recipe"]) | {"include": "quickstart", "seeds": "10"},
        "2: seeds: has no effect on the included grids: add 'methods' to declare cells in this grid, or",
    ),
    "a list for a text": ({"about": "[a]"}, "5: about: must be text, got a list"),
    "a key twice": ({"about": "x\nrecipe: quick"}, "6: the key 'recipe' occurs twice"),
    "a setting twice": ({"recipe": "{base: quick, epochs: 2, epochs: 3}"}, "4: the key 'epochs' occurs twice"),
    "a parameter twice": ({"methods": "[{kd: {weight: 2, weight: 2}}]"}, "3: the key 'weight' occurs twice"),
    "a key that is a number": ({"3": "4"}, "5: a key must be text, got 3"),
    "a key that is a list": ({"? [a, b]\n": "4"}, "5: a key must be text, got a list or a mapping"),
    "a merge key": ({"recipe": "{<<: {base: quick}, epochs: 2}"}, "4: recipe.<<: unknown key '<<'; known: "),
    "an object": (
        {"about": "!!python/name:os.system ''"},
        "5: must be plain YAML: found the tag tag:yaml.org,2002:pyth",
    ),
    "a tag": ({"about": "!mine x"}, "5: must be plain YAML: found the tag !mine"),
    "a tag of YAML's own": ({"seeds": "!!int three"}, "5: must be plain YAML: found the tag tag:yaml.org,2002:int"),
    "an alias inside itself": ({"recipe": "&a {base: *a}"}, "4: an alias must not be inside the value that it"),
    "an alias of nothing": ({"recipe": "*quick"}, "4: must be plain YAML: found undefined alias 'quick'"),
    "a bracket that stays open": ({"methods": "[ce, kd"}, "4: must be plain YAML: expected ',' or ']', but got ':'"),
    "a quote that stays open": ({"recipe": "'quick"}, "5: must be plain YAML: found unexpected end of stream"),
    "several documents": ({"about": "x\n---\nabout: y"}, "6: must be plain YAML: but found another document"),
    "values without end": ({"about": "[" * 3000}, " must be YAML that a person can read, got values that are nested"),
}

TEXTS: dict[str, tuple[str, str]] = {  # whole files
    "nothing": ("", " must hold keys and values, got an empty file"),
    "comments": ("# nothing\n\n# here\n", " must hold keys and values, got an empty file"),
    "null": ("~\n", "1: must be a mapping, got nothing"),
    "a list": ("[1, 2]\n", "1: must be a mapping, got a list"),
    "a word": ("hello\n", "1: must be a mapping, got 'hello'"),
    "a tab": ("datasets: digits\n\tpairs: x\n", "2: must be plain YAML: found character '\\t' that cannot start"),
    "an indentation": ("datasets: digits\n  recipe: quick\n", "2: must be plain YAML: mapping values are not allowed"),
    "a bell": ('about: "\a"\n', " must be plain YAML: unacceptable character #x0007"),
    "a zero": ("about: \0\n", " must be plain YAML: unacceptable character #x0000"),
    "a later YAML": ("%YAML 3.0\n---\nabout: x\n", "1: must be plain YAML: found incompatible YAML document"),
    "a billion laughs": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "1: aliases must not expand to more than 100,000 values",
    ),
}

BYTES = {
    "binary": bytes(range(256)),
    "UTF-16": "datasets: digits\n".encode("utf-16"),
    "Latin 1": "about: Müller\n".encode("latin-1"),
}

FILES = {
    "raises": ("1 / 0\n", "mine.py cannot be loaded: ZeroDivisionError: division by zero (mine.py, line 1)"),
    "leaves": ("import sys\nsys.exit(0)\n", "mine.py cannot be loaded: SystemExit: 0 (mine.py, line 2)"),
    "is no Python": ("def\n", "mine.py cannot be loaded: SyntaxError: invalid syntax (mine.py, line 1)"),
    "registers nothing": ("x = 1\n", "mine.py registers no method, network or data set"),
    "takes a name": (
        "from kdbench.methods.method import METHODS\nMETHODS.register('kd')(METHODS['ce'])\n",
        "mine.py cannot be loaded: method 'kd' is already registered: a name must be given once",
    ),
}

Command, WriteGrid = Callable[..., Any], Callable[..., Path]


@pytest.mark.parametrize(("changes", "sentence"), KINDS.values(), ids=list(KINDS))
def test_a_wrong_grid_is_refused_in_a_sentence_that_names_the_place(
    kdbench: Command, write_grid: WriteGrid, changes: dict[str, str | None], sentence: str
) -> None:
    assert kdbench("plan", write_grid(**changes)).sentence.startswith(f"grid.yaml:{sentence}")


@pytest.mark.parametrize(("text", "sentence"), TEXTS.values(), ids=list(TEXTS))
def test_a_file_that_holds_no_grid_is_refused(
    kdbench: Command, write_grid: WriteGrid, text: str, sentence: str
) -> None:
    assert kdbench("plan", write_grid(text)).sentence.startswith(f"grid.yaml:{sentence}")


@pytest.mark.parametrize("content", BYTES.values(), ids=list(BYTES))
def test_a_file_that_is_not_text_is_refused(kdbench: Command, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "grid.yaml"
    file.write_bytes(content)
    assert kdbench("plan", file).sentence == f"{file}: must be a YAML file, got something that is not text"


@pytest.mark.parametrize(("code", "sentence"), FILES.values(), ids=list(FILES))
def test_a_file_of_ones_own_that_does_not_load_is_refused(
    kdbench: Command, write_grid: WriteGrid, code: str, sentence: str
) -> None:
    write_grid(code, "mine.py")
    assert kdbench("plan", write_grid(files="mine.py")).sentence == f"grid.yaml:5: files: {sentence}"


@pytest.mark.parametrize(
    ("name", "sentence"),
    {
        "quickstrat": "unknown grid 'quickstrat'; did you mean 'quickstart'?",
        "grid.yml": "grid.yml: no such file",
        ".": ".: must be a YAML file, got a folder",
        "x" * 3000: f"{'x' * 3000}: File name too long",
    }.items(),
    ids=["a name", "no such file", "a folder", "a long name"],
)
def test_a_grid_that_cannot_be_found_is_refused(
    kdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kdbench("plan", name).sentence == sentence


def test_a_grid_that_may_not_be_read_is_refused(
    kdbench: Command, write_grid: WriteGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: Path, *_: object, **__: object) -> str:  # root, as CI is, may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    file = write_grid()
    monkeypatch.setattr(Path, "read_text", refused)
    assert kdbench("plan", file).sentence == "grid.yaml: cannot be read: Permission denied"


def test_an_object_tag_runs_nothing(kdbench: Command, write_grid: WriteGrid) -> None:
    file = write_grid(about="!!python/object/apply:os.system ['touch was_here']")
    assert "found the tag" in kdbench("plan", file).sentence
    assert not Path("was_here").exists()


def test_a_grid_that_includes_itself_by_way_of_another_is_refused(kdbench: Command, write_grid: WriteGrid) -> None:
    write_grid("include: grid.yaml\n", "other.yaml")
    sentence = kdbench("plan", write_grid("\ninclude: [quickstart, other.yaml]\n")).sentence
    assert sentence == "other.yaml:1: include: grid.yaml: a grid must not include itself"


def test_the_line_is_that_of_the_mistake_in_a_long_file(kdbench: Command, write_grid: WriteGrid) -> None:
    file = write_grid(methods="\n  - ce\n  - kd:\n      weight: 1\n      temperature:\n        hot")
    assert kdbench("plan", file).sentence == "grid.yaml:7: methods[1].kd.temperature: must be a number, got 'hot'"


def test_what_only_the_method_knows_to_be_wrong_is_planned_as_invalid(kdbench: Command, write_grid: WriteGrid) -> None:
    answer = kdbench("plan", write_grid(methods="[ce, {kd: {temperature: {sweep: [-1, 0, 2]}}}]"))
    assert answer.code == 0
    assert "4 cells and 1 teacher: 3 missing, 2 invalid" in answer.out
    assert "kd: temperature must be above 0, got -1" in answer.out


def test_running_a_grid_of_which_no_cell_can_work_is_refused(kdbench: Command, write_grid: WriteGrid) -> None:
    answer = kdbench("run", write_grid(methods="[{kd: {temperature: 0}}]"))
    assert answer.sentence.startswith("grid: no cell can work: digits-resnet14x0.5-resnet8x0.25-kd-s0-")
    assert answer.sentence.endswith(": kd: temperature must be above 0, got 0.0")
