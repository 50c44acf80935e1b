"""Dataclasses from TOML and the command line, and back; every mistake is named."""

import enum
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from agentgym import config
from agentgym.errors import ConfigError


class Precision(enum.StrEnum):
    FULL = "float32"
    HALF = "bfloat16"


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    """Learning rate,
    of the first step."""
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", 3] = "constant"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr!r}")


@dataclass(frozen=True)
class Base:
    seed: int = 0
    """Of everything."""


@dataclass(frozen=True)
class Settings(Base):
    """The settings of these tests."""

    name: str = "run"
    optim: Optim = field(default_factory=Optim)
    slow: Optim = field(default_factory=lambda: Optim(lr=1e-6, schedule="cosine"))
    """Another one."""
    steps: int | None = 10
    folder: Path = Path("runs")
    home: Optional[Path] = None  # noqa: UP045 (both spellings are read)
    precision: Precision = Precision.FULL
    flag: bool = False
    ids: tuple[str, ...] = ("a", "b")
    weights: list[float] = field(default_factory=list)
    scale: int | float = 1
    extra: Optim | None = None
    groups: tuple[Optim, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    path: Path
    """Where."""


FULL = Settings(
    seed=7,
    name='a "name"\nin two lines',
    optim=Optim(lr=0.5, betas=(0.0, 1.0), schedule=3),
    steps=None,
    folder=Path("/tmp/x y"),
    home=Path("~"),
    precision=Precision.HALF,
    flag=True,
    ids=(),
    weights=[1.0, 1e-30],
    scale=2.0,
    extra=Optim(),
    groups=(Optim(lr=1.0), Optim()),
    limits={"x.y": 3},
    options={"images": True, "nested": {"sizes": [1, [2.5]]}, "empty": {}},
)


@pytest.mark.parametrize("instance", [Settings(), FULL])
def test_what_is_dumped_loads_to_the_same(tmp_path: Path, instance: Settings) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(config.dump(instance))
    found = config.load(Settings, path)
    assert found == instance
    assert type(found.scale) is type(instance.scale)
    assert config.dump(found) == config.dump(instance)


def test_nothing_means_defaults() -> None:
    assert config.load(Settings) == Settings()
    assert config.load(Settings, {}, ()) == Settings()


def test_integers_become_floats_and_nothing_else_changes_type() -> None:
    found = config.load(Settings, {"optim": {"lr": 1}, "weights": [1, 2.5], "scale": 3})
    assert type(found.optim.lr) is float
    assert found.weights == [1.0, 2.5]
    assert type(found.scale) is int


def test_a_partial_table_keeps_the_fields_own_defaults() -> None:
    found = config.load(Settings, {"slow": {"lr": 1e-7}})
    assert found.slow == Optim(lr=1e-7, schedule="cosine")


def test_instances_pass_as_they_are() -> None:
    assert config.load(Settings, {"optim": Optim(lr=2.0)}).optim.lr == 2.0


OVERRIDES = [
    ("optim.lr=1e-4", lambda s: s.optim.lr == 1e-4),
    ("optim.lr=1", lambda s: type(s.optim.lr) is float),
    ("name=demo", lambda s: s.name == "demo"),
    ("name=123", lambda s: s.name == "123"),
    ("name=1e5", lambda s: s.name == "1e5"),
    ("name=true", lambda s: s.name == "true"),
    ('name="quoted"', lambda s: s.name == "quoted"),
    ("name=", lambda s: s.name == ""),
    ("name=a=b # c", lambda s: s.name == "a=b # c"),
    (" seed = 3 ", lambda s: s.seed == 3),
    ("steps=none", lambda s: s.steps is None),
    ("folder=a/b", lambda s: s.folder == Path("a/b")),
    ("precision=bfloat16", lambda s: s.precision is Precision.HALF),
    ("optim.schedule=cosine", lambda s: s.optim.schedule == "cosine"),
    ("optim.schedule=3", lambda s: s.optim.schedule == 3),
    ('ids=["x"]', lambda s: s.ids == ("x",)),
    ("optim.betas=[0, 0.5]", lambda s: s.optim.betas == (0.0, 0.5)),
    ("options.images=true", lambda s: s.options == {"images": True}),
    ("options.a.b=text", lambda s: s.options == {"a": {"b": "text"}}),
    ("extra.lr=3", lambda s: s.extra == Optim(lr=3.0)),
    ("optim={lr = 2.0}", lambda s: s.optim == Optim(lr=2.0)),
    ("limits.x=4", lambda s: s.limits == {"x": 4}),
]


@pytest.mark.parametrize(("text", "holds"), OVERRIDES, ids=[text for text, _ in OVERRIDES])
def test_overrides(text: str, holds: Any) -> None:
    assert holds(config.load(Settings, {}, [text]))


def test_later_overrides_win_and_the_source_stays(tmp_path: Path) -> None:
    source = {"optim": {"lr": 0.1, "schedule": "cosine"}, "options": {"a": 1}}
    found = config.load(Settings, source, ["optim.lr=1", "optim.lr=2", "options.b=2"])
    assert found.optim == Optim(lr=2.0, schedule="cosine")
    assert found.options == {"a": 1, "b": 2}
    assert source == {"optim": {"lr": 0.1, "schedule": "cosine"}, "options": {"a": 1}}
    tables = config.load(Settings, {}, ["optim={lr = 2.0}", "optim.schedule=cosine"])
    assert tables.optim == Optim(lr=2.0, schedule="cosine")


WRONG = [
    ({"sed": 1}, r"unknown key 'sed'\. Did you mean 'seed'\?"),
    ({"optim": {"rl": 1}}, r"unknown key 'optim\.rl'\. Did you mean 'optim\.lr'\?"),
    ({"optim": {"zzz": 1}}, r"unknown key 'optim\.zzz'\. Known: lr, betas, schedule"),
    ({"seed": "1"}, r"seed is '1' \(str\); expected int"),
    ({"seed": 1.0}, r"seed is 1\.0 \(float\); expected int"),
    ({"seed": True}, r"seed is True \(bool\); expected int"),
    ({"flag": 1}, r"flag is 1 \(int\); expected bool"),
    ({"optim": {"lr": True}}, r"optim\.lr is True \(bool\); expected float"),
    ({"optim": 3}, r"optim is 3 \(int\); expected table"),
    ({"optim": {"betas": [1.0]}}, r"optim\.betas is \[1\.0\] .* expected tuple\[float, float\]"),
    ({"optim": {"betas": [1.0, "x"]}}, r"optim\.betas\[1\] is 'x'"),
    ({"optim": {"schedule": "cos"}}, r"optim\.schedule is 'cos' .* 'constant' \| 'cosine' \| 3"),
    ({"optim": {"schedule": True}}, r"optim\.schedule is True"),
    ({"precision": "half"}, r"precision is 'half' .* expected 'float32' \| 'bfloat16'"),
    ({"steps": "many"}, r"steps is 'many' \(str\); expected int"),
    ({"scale": "x"}, r"scale is 'x' \(str\); expected int \| float"),
    ({"ids": "abc"}, r"ids is 'abc' \(str\); expected tuple\[str, \.\.\.\]"),
    ({"limits": {"x": 1.5}}, r"limits\.x is 1\.5 \(float\); expected int"),
    ({"limits": [1]}, r"limits is \[1\] \(list\); expected Mapping\[str, int\]"),
    ({"groups": [{"lr": 1}, {"lr": "x"}]}, r"groups\[1\]\.lr is 'x'"),
    ({"optim": {"lr": -1}}, r"optim: lr must be above 0, got -1\.0"),
    ({"extra": {"lr": 0}}, r"extra: lr must be above 0"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[m for _, m in WRONG])
def test_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(Settings, values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"override 'seed' is not of the form key=value"),
        ("=3", r"override '=3' is not of the form"),
        ("optim..lr=3", r"not of the form"),
        ("sed=1", r"Did you mean 'seed'"),
        ("seed=x", r"seed is 'x' \(str\); expected int"),
        ("seed.x=1", r"seed is \{'x': 1\} \(dict\); expected int"),
        ("ids=a", r"ids is 'a' \(str\)"),
        ("flag=yes", r"flag is 'yes' \(str\); expected bool"),
    ],
)
def test_mistakes_on_the_command_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(Settings, {}, [override])


def test_an_override_below_a_plain_value() -> None:
    with pytest.raises(ConfigError, match=r"override 'seed\.x=1': seed is no table"):
        config.load(Settings, {"seed": 1}, ["seed.x=1"])


def test_what_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"key 'path' \(Path\) must be given"):
        config.load(Needs)
    assert config.load(Needs, {}, ["path=x"]) == Needs(Path("x"))
    assert config.describe(Needs) == [config.Key("path", "Path", "", "Where.")]


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(ConfigError, match=rf"cannot read {path}: No such file"):
        config.load(Settings, path)
    path.write_text('name = "x"\nseed = = 1\n')
    with pytest.raises(ConfigError, match=rf"{path} is no valid TOML: .*line 2, column 8"):
        config.load(Settings, str(path))
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=rf"{path} is not UTF-8"):
        config.load(Settings, path)
    path.write_text("sed = 1")
    with pytest.raises(ConfigError, match=rf"{path}: unknown key 'sed'"):
        config.load(Settings, path)


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        (Settings(options={"a": [None]}), r"options\.a\[0\] is None, which TOML cannot say here"),
        (Settings(options={"x": object()}), r"options\.x is <object"),
        (Settings(home=Path("none")), r"home is the text 'none', which would be read as None"),
    ],
)
def test_what_would_not_come_back_is_refused(instance: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.dump(instance)


@pytest.mark.parametrize("instance", [Settings(name="none"), Settings(options={"x": "none"})])
def test_the_text_none_is_a_text_where_none_cannot_stand(instance: Settings) -> None:
    assert config.load(Settings, tomllib.loads(config.dump(instance))) == instance


def test_describe_tells_every_key() -> None:
    keys = {key.name: key for key in config.describe(Settings)}
    assert keys["seed"] == ("seed", "int", "0", "Of everything.")
    assert keys["optim.lr"] == ("optim.lr", "float", "0.001", "Learning rate, of the first step.")
    assert keys["slow.lr"].default == "1e-06", "the field's own default, not the class's"
    assert keys["optim.schedule"].type == "'constant' | 'cosine' | 3"
    assert keys["steps"][1:3] == ("int | none", "10")
    assert keys["home"][1:3] == ("Path | none", '"none"')
    assert keys["precision"][1:3] == ("'float32' | 'bfloat16'", '"float32"')
    assert keys["ids"][1:3] == ("tuple[str, ...]", '["a", "b"]')
    assert keys["options"][1:3] == ("dict[str, Any]", "{}")
    assert "optim" not in keys


def test_described_defaults_are_what_load_takes() -> None:
    """Every key with its default, given on the command line, changes nothing."""
    texts = [f"{key.name}={key.default}" for key in config.describe(Settings)]
    assert config.load(Settings, {}, texts) == Settings()


@config.variants(released={"clip": 0.1, "steps": 2})
@dataclass(frozen=True)
class Method:
    clip: float = 0.2
    steps: int = 1
    seed: int = 0
    variant: Literal["paper", "released"] = "paper"


@pytest.mark.parametrize("make", [lambda **v: Method(**v), lambda **v: config.load(Method, v)])
def test_a_variant_is_a_set_of_defaults(make: Any) -> None:
    assert make() == make(variant="paper") == Method(0.2, 1)
    assert make(variant="released", seed=3) == Method(0.1, 2, 3, variant="released")
    kept = make(variant="released", clip=0.2)
    assert (kept.clip, kept.steps) == (0.2, 2), "explicit settings go first, the paper's value too"
    assert replace(kept, seed=1) == make(variant="released", clip=0.2, seed=1)
    assert config.load(Method, config_of(kept)) == kept
    with pytest.raises(ConfigError, match=r"releasd"):
        make(variant="releasd")


def config_of(instance: Any) -> dict[str, Any]:
    return tomllib.loads(config.dump(instance))


def test_a_subclass_names_its_own_variants() -> None:
    @config.variants(released={"steps": 5})
    @dataclass(frozen=True)
    class Child(Method):
        clip: float = 0.3

    assert Child(variant="released") == Child(0.3, 5, variant="released")
    with pytest.raises(ConfigError, match="Did you mean 'released'"):
        Child(variant="releasd")  # type: ignore[arg-type]


def test_variants_of_what_a_class_has_not() -> None:
    with pytest.raises(TypeError, match=r"Base needs the fields \['variant'\]"):
        config.variants(released={})(Base)
    with pytest.raises(TypeError, match="clop"):
        config.variants(released={"clop": 1.0})(Method)


def test_types_that_no_configuration_can_hold() -> None:
    @dataclass
    class Bad:
        x: complex = 1j

    with pytest.raises(ConfigError, match="x has type complex, which no configuration can hold"):
        config.load(Bad, {"x": 1.0})
