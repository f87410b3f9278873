"""Every advice that is printed can be followed as it is printed.

Advice of the data room and of the commands is followed in their own tests, that of a report in
tests/report, that of a search's end and of pruned and moved runs by the slow tests of those.
"""

import re
import shlex
import shutil

import pytest

from lenet.__main__ import main as lenet
from lenet.tracking.compare import rerun_verdict
from lenet.tracking.journal import Facts, Journal
from lenet.tracking.names import TrackingError
from lenet.tracking.outbox import what_to_do
from tests.support.lab import PLAIN

LR, TPE, DRY = "optimizer.lr=interval(0.1,1)", "hydra/sweeper=tpe", "sweep.dry=true"
MEASURE, SIZE = ["objective=val/loss", "data.val_size=100"], "data.val_size=100"
REGISTER, SEEDS = "tracking.register_as=digits", "seed=range(8)"


@pytest.mark.parametrize(
    ("typed", "printed", "followed"),
    [
        (["patience=1"], r"; set (data\.val_size)$", ["patience=1", "{}=100"]),
        (["objective=val/loss"], r"; set (data\.val_size)$", ["objective=val/loss", "{}=100"]),
        (
            ["objective=test/loss"],
            r"take (val/loss) or val/accuracy and set (data\.val_size)$",
            ["objective={}", "{}=100"],
        ),
        ([REGISTER], r"; set (data\.val_size)$", [REGISTER, "{}=100"]),
        (
            [REGISTER, SIZE, "tracking.model=false"],
            r"; set (tracking\.model=true)$",
            [REGISTER, SIZE, "{}"],
        ),
        (["seed=0,1"], r"needs -m: python run\.py (-m) (seed=0,1); ", ["{}", "{}", DRY]),
        (["optimizer.lrr=1"], r"; did you mean (optimizer\.lr)\?$", ["{}=1"]),
        (["optimizer=sgdd"], r"; expected one of (\w+), ", ["optimizer={}"]),
        (["model/activaton=relu"], r"; did you mean (model/activation)\?$", ["{}=relu"]),
        (["optimiser=sgd"], r"; did you mean (optimizer=sgd)\?$", ["{}"]),
        (["lr=0.1"], r"; did you mean (optimizer\.lr=0\.1)\?$", ["{}"]),
        (["activation=relu"], r"; did you mean (model/activation=relu)\?$", ["{}"]),
        (["nothing=1"], r"; `python run\.py (--help)` lists all keys$", ["{}"]),
        (["train"], r", as in (epochs=3); `python run\.py` alone trains", ["{}"]),
        (["optimizer.lr", "0.1"], r": write (optimizer\.lr=0\.1)$", ["{}"]),
        (["optimizer.lr"], r", as in (optimizer\.lr=)\.\.\.$", ["{}0.1"]),
        (["--epochs", "3"], r"; write (epochs=3)$", ["{}"]),
        (["--batch-size=3"], r"; write (data\.batch_size=3)$", ["{}"]),
        (["--fast"], r", as in (optimizer\.lr=0\.05)$", ["{}"]),
        (["seed=0", "-m"], r"; write flags first: python run\.py (-m) KEY", ["{}", "seed=0", DRY]),
        (["+seed=1"], r": this key exists; leave out the (\+)$", ["seed=1"]),
        (["model=mlp", "model/pooling=max"], r"no (pooling); leave it out$", ["model=mlp"]),
        (["++optimizer.nu=1"], r", add (~optimizer\.nu)$", ["++optimizer.nu=1", "{}"]),
        (["-cn", "momentum"], r" run\.py (-cd) (sweeps) (-cn) (momentum)$", [*4 * ["{}"], DRY]),
        (["-cn", "nope"], r"; (-cd) (sweeps) has (\w+), ", ["{}", "{}", "-cn", "{}", DRY]),
        (
            ["-m", "optimizer=adam,adamw", "optimizer.eps=1e-7"],
            r"; write (\+\+optimizer\.eps=1e-7)$",
            ["-m", "optimizer=adam,adamw", "{}", DRY],
        ),
        (
            ["-m", "data.val_size=100", SEEDS, "sweep.budget=9s"],
            r"; take (objective=val/accuracy) and set data\.val_size$",
            ["-m", "data.val_size=100", SEEDS, "sweep.budget=9s", "{}", DRY],
        ),
        (
            ["-m", *MEASURE, "seed=range(2)", "sweep.budget=9s"],
            r", such as ('seed=range\(10\)')$",
            ["-m", *MEASURE, "{}", "sweep.budget=9s", DRY],
        ),
        (["data=files"], r"; write (data\.train=)\.\.\.$", ["data=files", "{}set.npz"]),
        (["+model.num_classes=7"], r"; leave it out$", []),
        (["tags.idea=wide"], r"to add a tag write (\+tags\.idea=)\.\.\.$", ["{}wide"]),
        (["note=a (b)"], r"as in ('note=\"a \(b\)\"')$", ["{}"]),
        (["-m", "seed=0,0"], r"once, and (\+tags\.repeat=1,2) to run", ["-m", "{}", DRY]),
        (["-m", LR], r"or (hydra/sweeper=tpe)$", ["-m", LR, *MEASURE, "{}", DRY]),
        (
            ["-m", TPE, *MEASURE],
            r"for one (\S+) or (\S+)$",
            ["-m", TPE, *MEASURE, "{}", "{}", DRY],
        ),
        (
            ["-m", TPE, LR],
            r"take (val/accuracy) or val/loss and set (data\.val_size)$",
            ["-m", TPE, LR, "objective={}", "{}=100", DRY],
        ),
        (
            ["-m", TPE, *MEASURE, "epochs=interval(1,8)"],
            r"whole numbers are (int\(interval\()LOW, HIGH(\)\))$",
            ["-m", TPE, *MEASURE, "epochs={}1,8{}", DRY],
        ),
        (
            ["-m", TPE, *MEASURE, LR, "seed=interval(0,3)"],
            r"expected (seed=range\(3\))$",
            ["-m", TPE, *MEASURE, LR, "{}", DRY],
        ),
    ],
)
def test_what_to_type_instead_is_taken(desk, typed, printed, followed):
    def given(words):
        return words if "data=files" in words else [*words, "data=digits"]

    text = desk.typed(*given(typed), status=2)
    advice = re.search(printed, text.rstrip())
    assert advice, text
    found = iter(advice.groups())
    lines = [re.sub(r"\{\}", lambda _: next(found), word) for word in followed]
    words = [word for line in lines for word in shlex.split(line)]
    desk.typed(*given(words), train=lambda settings: None)


# ---- About a run: each function provokes an advice, and follows it -----------------------------


def extend_a_finished_run(desk):
    run_id = desk.whole()
    yield desk.typed(f"resume={run_id}", status=2), r"; (epochs=2), for one, extends it"
    desk.typed(f"resume={run_id}", (yield))


def send_the_rest_of_a_finished_run(desk):
    run_id, folder = desk.died()
    journal = Journal.open(folder)
    journal.log_status("FINISHED")
    journal.close()
    yield desk.typed(f"resume={run_id}", status=2), r"; (\S.*) sends what MLflow lacks$"
    assert desk.shell((yield)).startswith(f"Sent run {run_id} ")


def restore_a_deleted_run(desk):
    run_id, _ = desk.died()
    desk.client.delete_run(run_id)
    yield desk.typed(f"resume={run_id}", status=2), r"; (mlflow runs .*) brings it back"
    desk.shell((yield))
    desk.typed(f"resume={run_id}")


def send_the_records_of_a_lost_database(desk):
    run_id, folder = desk.died()
    (desk.folder / "mlflow.db").unlink()
    yield desk.typed(f"resume={run_id}", status=2), r"; as a new run: (.*)$"
    assert f"; it was {run_id} in " in desk.shell((yield))
    assert not folder.exists()


def send_to_an_address_with_a_password(desk):
    _, folder = desk.died()
    journal = Journal.open(folder)
    journal.describe(uri="http://me:secret@127.0.0.1:9")
    yield what_to_do(TrackingError("deleted"), journal), r"; as a new run: (.*)$"
    journal.close()
    advice = yield
    assert "secret" not in advice
    assert "Sent run " in desk.shell(advice)  # MLFLOW_TRACKING_URI is the desk's store


def leave_out_an_address(desk):
    run_id, folder = desk.died()
    shutil.rmtree(folder)
    facts = Facts(desk.uri, "a run", process=desk.gone, run_id=run_id)
    journal = Journal.create(desk.waiting, facts)
    journal.log_tags({"a": "1"})
    journal.close()
    assert lenet(["send", "latest", "--uri", desk.uri]) == 2
    yield desk.capsys.readouterr().err, r": leave out (--uri)$"
    yield
    assert lenet(["send", "latest"]) == 0


def remove_outdated_records(desk):
    run_id, folder = desk.died()
    shutil.move(folder, desk.folder / "away")
    desk.typed(f"resume={run_id}")
    shutil.move(desk.folder / "away", folder)
    yield desk.typed(f"resume={run_id}", status=2), r"; (rm .*) removes them$"
    desk.shell((yield))
    assert "the run is finished" in desk.typed(f"resume={run_id}", status=2)


def continue_a_run_whose_process_died(desk):
    run_id, _ = desk.died()
    text = desk.typed("data=digits", "epochs=1", *PLAIN)
    yield text, rf"The process of run {run_id} has died; (resume=\w+) continues it$"
    desk.typed((yield))
    assert desk.client.get_run(run_id).info.status == "FINISHED"


def train_again_what_lost_its_weights(desk):
    run_id = desk.whole()
    desk.client.set_tag(run_id, "lenet.weights.sha256", "0" * 64)
    assert lenet(["evaluate", run_id]) == 2
    yield desk.capsys.readouterr().err, r"; (rerun=\w+) trains it again$"
    assert "accuracy" in desk.typed((yield))


def compare_later(desk):
    run_id = desk.whole()
    database = desk.folder / "mlflow.db"
    database.rename(desk.folder / "away")
    yield rerun_verdict(run_id, run_id, desk.uri), r"; later: (.*)$"
    (desk.folder / "away").rename(database)
    assert "The same bits" in desk.shell((yield))


def restore_a_deleted_experiment(desk):
    run_id = desk.whole()
    desk.client.delete_experiment(desk.client.get_run(run_id).info.experiment_id)
    text = desk.typed("data=digits", status=2)
    yield text, r"tracking\.experiment=NAME, or restore it: (mlflow .*)$"
    desk.shell((yield))
    desk.whole()


def unset_the_id_of_a_run(desk):
    desk.monkeypatch.setenv("MLFLOW_RUN_ID", desk.whole())
    yield desk.typed("data=digits", status=2), r"; unset (MLFLOW_RUN_ID)$"
    desk.monkeypatch.delenv((yield))
    desk.whole()


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        *(extend_a_finished_run, send_the_rest_of_a_finished_run, restore_a_deleted_run),
        *(send_the_records_of_a_lost_database, send_to_an_address_with_a_password),
        *(leave_out_an_address, remove_outdated_records, continue_a_run_whose_process_died),
        *(train_again_what_lost_its_weights, compare_later, restore_a_deleted_experiment),
        unset_the_id_of_a_run,
    ],
)
def test_advice_about_a_run_does_what_it_says(desk, case):
    steps = case(desk)
    text, printed = next(steps)
    advice = re.search(printed, text, re.MULTILINE)
    assert advice, text
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(advice[1])
