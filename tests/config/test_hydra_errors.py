"""Whatever is typed after `python run.py`, or written into a YAML file, is a configuration or one
line on standard error, with exit status 2 and nothing left behind.
"""

import io
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

import run
from lenet.config.hydra_errors import one_line_errors
from tests.conftest import CONF, ROOT

pytestmark = pytest.mark.filterwarnings("ignore")  # a warning of Hydra ends no run


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str
    left: list[str]  # what is in the working folder afterwards


def answer_to(*arguments, trains=False):
    """What `python run.py *arguments` answers, without training unless it `trains`."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as store,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.chdir(folder)
        for name in ("LENET_DATA", "LENET_RUNS"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
        patch.setenv("HYDRA_FULL_ERROR", "0")  # run.main changes it
        patch.setattr(sys, "argv", ["run.py", *arguments])
        if not trains:
            patch.setattr(run, "train", lambda settings, is_ready: print(settings.name))
        try:
            run.main()
        except SystemExit as end:
            status = end.code or 0
        left = os.listdir(folder)
    return Answer(status, out.getvalue(), err.getvalue(), left)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("given")


def is_one_line(answer):
    return (
        (answer.status, answer.out, answer.left) == (2, "", [])
        and answer.err.startswith("error: ")
        and answer.err.removesuffix("\n").isprintable()
        and len(answer.err) < 600
    )


# ---- The command line ------------------------------------------------------------------------

OPTIMIZERS = "expected one of adam, adamw, best, "
REFUSED = {
    "optimizer.lrr=1": "optimizer.lrr: no such key; did you mean optimizer.lr?",
    "optimizer=sgdd": f"optimizer=sgdd: no such option; {OPTIMIZERS}",
    "model/activaton=relu": "model/activaton: no such key; did you mean model/activation?",
    "model=mlp model/pooling=max": "model/pooling=max: the chosen model has no pooling",
    "optimiser=sgd": "optimiser: no such key; did you mean optimizer=sgd?",
    "optimizer.lr=[": "optimizer.lr=[: cannot be read; a value with special ",
    "optimizer=null": "optimizer=null: ValueError: Config group override must be",
    "data=files": "data.train: missing; write data.train=...",
    "tags.idea=wide": "tags.idea: to add a tag write +tags.idea=...",
    "epochs=1,2": "epochs=1,2: several values are a sweep, which needs -m: python run.py -m ",
    "lr=0.1": "lr: no such key; did you mean optimizer.lr=0.1?",
    "batch_size=32": "batch_size: no such key; did you mean data.batch_size=32?",
    "momentun=0.5": "momentun: no such key; did you mean optimizer.momentum=0.5?",
    "activation=relu": "activation: no such key; did you mean model/activation=relu?",
    "nothing=1": "nothing: no such key; `python run.py --help` lists all keys",
    "+seed=1": "+seed=1: this key exists; leave out the +",
    "train": "train: expected KEY=VALUE, as in epochs=3; `python run.py` alone trains",
    "optimizer.lr 0.1": "optimizer.lr 0.1: write optimizer.lr=0.1",
    "lr 0.1": "lr 0.1: write optimizer.lr=0.1",
    "optimizer.lr": "optimizer.lr: expected a value, as in optimizer.lr=...",
    "experiment=[nope]": "experiment=[nope]: In 'config': Could not load 'experiment/nope'",
    "--epochs=3": "--epochs=3: no such flag; write epochs=3",
    "--batch-size 3": "--batch-size: no such flag; write data.batch_size=3",
    "--fast": "--fast: no such flag; values are KEY=VALUE, as in optimizer.lr=0.05",
    "seed=0 -m epochs=1,2": "epochs=1,2: comes after a flag; write flags first: python run.py -m ",
    "--cfg tree": "-c: expected 'job', 'hydra', 'all', got 'tree'",
    "-m epochs=1,2 -cn": "-cn: expected a value after it",
    "--experimental-rerun x.pickle": "--experimental-rerun: not offered",
    "-cn nope": "-cn nope: no such file; -cd ",
    "-cn momentum": "-cn momentum: a sweep is in another folder: python run.py -cd ",
    "resume=latest rerun=1234e567": "resume, rerun: expected one of them, got both",
    "-m optimizer=adam,adamw optimizer.eps=1e-7": "optimizer.eps: not known before the sweep "
    "chooses from optimizer=adam,adamw; write ++optimizer.eps=1e-7",
    "-m epochs=1,0": "epochs=0: should be greater than or equal to 1",
    "-m seed=range(1000000000)": "seed=range(1000000000): expected 1 to 10,000 runs",
    "-m seed=interval(0,1)": "seed=interval(0,1): an interval has no list of values",
    "-m hydra/sweeper=basic": "hydra/sweeper=basic: no such option; expected one of grid,",
    "hydra.verbose=5": "hydra.verbose=5: AssertionError",
    f"epochs={'a' * 9_000}": f"epochs={'a' * 40} ... {'a' * 20}: should be a valid integer",
}


@pytest.mark.parametrize(("line", "message"), REFUSED.items(), ids=[line[:40] for line in REFUSED])
def test_a_wrong_command_line_is_answered_in_one_line(line, message):
    answer = answer_to(*line.split(" "))
    assert is_one_line(answer), answer
    assert answer.err.startswith(f"error: {message}")


TOO_LATE_FOR_THE_CHECK = {  # each is found when the parts of the run are built
    "device.threads=99999": "device.threads=99999: expected 1 to ",
    "device=mps": "device.type=mps: this machine has none; expected auto, cpu",
    "data.val_size=99999": "data.val_size=99999: expected 0 to 1,436 or a part below 1, ",
    "data.val_size=1437": "data.val_size=1437: expected 0 to 1,436 or a part below 1, ",
    "data.train_size=1438": "data.train_size=1438: expected 1 to 1,437 or a part below 1, ",
    "data.train_size=9 data.val_size=1430": "data.train_size=9: expected 1 to 7 or a part below",
    "data=mnist data.root=. data.download=false": "no mnist under .",
    "data.split=letters": "data.split=letters: only emnist has splits",
    "model.pooling.kernel_size=30": "model: Given input size: ",
    "+model.num_classes=7": "model.num_classes=7: follows from the data or the run; leave it out",
    "device.kernels=native data.image_size=28": "device.kernels=native: ",
    "schedule=lecun1998 schedule.lengths=[1]": "schedule: factors: expected one more than the 1 ",
    "model/pooling=max model.pooling.return_indices=true": "model: ",
    "tracking.folder=/dev/null/x": "tracking.folder=/dev/null/x: cannot be written",
}


@pytest.mark.parametrize(("line", "message"), TOO_LATE_FOR_THE_CHECK.items())
def test_a_part_that_can_not_be_built_is_answered_in_one_line_and_nothing_else(line, message):
    answer = answer_to("data=digits", *line.split(" "), trains=True)
    assert is_one_line(answer), answer
    assert answer.err.startswith(f"error: {message}")


@pytest.mark.parametrize("run_id", ["12345678", "1234e567"])
def test_a_run_id_that_looks_like_a_number_stays_a_text(run_id):
    answer = answer_to("--cfg", "job", f"resume={run_id}")
    assert f"resume: '{run_id}'" in answer.out


@pytest.mark.parametrize(
    "line",
    [
        *("--help", "--hydra-help", "--cfg job --resolve"),
        "-m tracking.run_name=run-${seed}-${hydra:job.num} seed=1,2 sweep.dry=true",
        f"-cd {ROOT / 'sweeps'} -cn momentum sweep.dry=true",
        "-m optimizer=adam,adamw ++optimizer.eps=1e-7 sweep.dry=true",
        "optimizer.lr=0.1 +tags.idea=wide",
    ],
)
def test_a_right_command_line_is_accepted(line):
    answer = answer_to(*line.split(" "))
    assert (answer.status, answer.err) == (0, "")
    assert answer.out


VALUES = (
    *("", " ", "null", "true", "-1", "1.5", "nan", "1e999", "007", "0x10", "01:30", "9" * 30),
    *("ten", "数", "🙂", "\x1b[31m", "\u202e", "a\nb", "*", "&a", "%", "!!int 3", "\\"),
    *("[1,2]", "{a:1}", "{1:2}", "[", "}", "{a:", "1,2", ",", "'a", '"a', "''", "a=b", "../x"),
    *("${seed}", "${", "${nope}", "${..}", "${oc.env:NOPE}", "${data}", "${now:%Y}"),
    *("choice(1,2)", "choice()", "range(3)", "range(1,nan)", "glob(*)", "sort(3,1)", "tag(a,1)"),
)
KEYS = (
    *("seed", "epochs", "note", "tags", "tags.a", "data", "data.root", "data.classes", "sweep.zip"),
    *("optimizer", "optimizer.lr", "optimizer.betas", "optimizer._target_", "optimizer@foo"),
    *("model/activation", "model.activation", "device._convert_", "experiment", "debug", "nope"),
    *("hydra", "hydra.mode", "hydra.sweeper.params", "hydra/launcher", "hydra.x"),
    *(".", "a.b.c", "data..root", "data[root]", "optimizer/", "/optimizer", "//", "データ", ""),
)
OVERRIDES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "+", "++", "~", "!"]),
    st.sampled_from(KEYS),
    st.sampled_from(["=", "=", "=", ""]),
    st.sampled_from(VALUES),
).filter(lambda text: not text.startswith("-"))


@given(st.sampled_from([[], ["-m"]]), st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_command_line_is_a_configuration_or_one_line(flags, overrides):
    dry = ["sweep.dry=true"] if flags else []
    answer = answer_to(*flags, *overrides, *dry)
    assert answer.status == 0 or is_one_line(answer), answer


# ---- YAML files ------------------------------------------------------------------------------

REFUSED_FILES = {
    "a tab": ("\tseed: 1", ", line 1: found character '\\t' that cannot start any token"),
    "one key twice": ("seed: 1\nseed: 2", ", line 2: found duplicate key seed"),
    "an open bracket": ("seed: 1\nnote: [", ", line 2: expected the node content"),
    "a number": ("5", "Invalid loaded object type: int"),
    "a wrong value": ("defaults: [config, _self_]\nepochs: 0", "epochs=0: should be greater"),
    "a wrong option": ("defaults: [config, {override optimizer: nope}]", "optimizer=nope: no such"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED_FILES.values(), ids=list(REFUSED_FILES))
def test_a_wrong_file_is_answered_in_one_line(tmp_path, content, message):
    path = tmp_path / "fuzz.yaml"
    path.write_text(content)
    answer = answer_to("-cd", str(tmp_path), "-cn", "fuzz")
    assert is_one_line(answer), answer
    assert (f"{path}{message}" if message.startswith(", line") else message) in answer.err


LINES = (
    *("epochs: 3", "epochs: 0", "seed: !!int x", "note: [1]", "tags: {1: a}", "1: 2", "<<: 3"),
    *("note: *nope", 'note: "\\0"', "note: !!binary aGk=", "note: !!python/name:os.system", "---"),
    *("note: !!timestamp 2020-01-01", "tags: !!set {a, b}", "note: ${", "note: ${note}", "? [a]"),
    *("optimizer: 3", "optimizer: {_target_: os.system}", "optimizer: {_args_: [1]}", "%YAML 9"),
    *("hydra: 3", "hydra: {mode: MULTIRUN}", "hydra: {help: 3}"),
    *("defaults: 3", "defaults: [fuzz]", "defaults: [{a: b}]", "# @package foo", "\tepochs: 3"),
)


@given(
    st.lists(st.sampled_from(LINES), min_size=1, max_size=3),
    st.sampled_from(["", "optimizer", "experiment"]),
)
def test_any_file_is_a_configuration_or_one_line(folder, lines, group):
    shutil.rmtree(folder)
    (folder / group).mkdir(parents=True)
    head = [] if group else ["defaults: [config, _self_]", "sweep: {dry: true}"]
    (folder / group / "fuzz.yaml").write_text("\n".join([*head, *lines]))
    chosen = [f"{group}=fuzz"] if group else ["-cn", "fuzz"]
    answer = answer_to("-cd", str(folder), *chosen)
    assert answer.status == 0 or is_one_line(answer), answer


# ---- What is no mistake of the user ----------------------------------------------------------


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors(CONF):
        raise KeyError("a bug")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_a_lack_of_memory_is_one_line_and_a_failed_run(capsys, error):
    with pytest.raises(SystemExit) as caught, one_line_errors(CONF):
        raise error
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: out of memory; ")
