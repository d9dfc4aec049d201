"""Compiled updates equal eager ones; if nothing can be compiled, training continues uncompiled."""

from __future__ import annotations

import pytest
import torch
from random_transitions import make_trainer

from flp.learner.compiled import Compiled
from flp.learner.trainable import Learner

SMALL = {"hidden": [5]}  # fewer kernels to compile


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """Where compiled code is kept: the compiler's headers, prepared for all of these tests."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def fresh(headers, monkeypatch):
    """Forget the code compiled by earlier calls."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(headers))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Parameters move by 0.1 to 0.2. In bfloat16, sums in another order round to another of its few digits.
@pytest.mark.slow(25)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("autocast", "rtol", "atol"), [(None, 1e-4, 1e-5), (torch.bfloat16, 0.0, 0.03)])
def test_compiled_updates_are_the_eager_ones(autocast, rtol, atol, fresh, capfd):
    eager, compiled = (make_trainer(settings=SMALL, autocast=autocast) for _ in range(2))
    compiled.step_fn = Compiled(compiled.learner)
    for trainer in (eager, compiled):
        logs = [trainer.run_chunk() for _ in range(3)]
    assert "warning" not in capfd.readouterr().err
    assert logs[-1]["critic_loss"].isfinite().all()
    (before, _), (after, _) = eager.state(), compiled.state()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=rtol, atol=atol, msg=name)
    untrained = make_trainer(settings=SMALL).state()[0]
    assert not torch.equal(before["learner/policy.net.weights.0"], untrained["learner/policy.net.weights.0"])


@pytest.mark.slow(15)
@pytest.mark.filterwarnings("ignore")
def test_without_a_compiler_training_goes_on(fresh, capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing has been compiled there
    eager, trainer = make_trainer(settings=SMALL), make_trainer(settings=SMALL)
    trainer.step_fn = Compiled(trainer.learner)
    with torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",)}):
        for each in (eager, trainer):
            each.run_chunk(2)
    (before, _), (after, _) = eager.state(), trainer.state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    told = [line for line in capfd.readouterr().err.splitlines() if "offline.compile" in line]
    assert len(told) == 1
    assert "going on without" in told[0]


@pytest.mark.slow(5)
@pytest.mark.filterwarnings("ignore")
def test_what_has_changed_is_compiled_anew(fresh, capfd):
    class Slope(Learner):
        factor = 2.0

        def update(self, batch, noise):
            (slope,) = torch.autograd.grad((self.factor * batch["x"].square()).sum(), batch["x"])
            return {"slope": slope}

    learner, batch = Slope(), {"x": torch.tensor([3.0], requires_grad=True)}
    update = Compiled(learner)
    assert update(batch, {})["slope"] == 12
    learner.factor = 5.0
    assert update(batch, {})["slope"] == 30
    with torch._dynamo.config.patch(recompile_limit=2):  # PyTorch's own limit: eight learners of a process
        other = Slope()
        other.factor = 7.0
        assert Compiled(other)(batch, {})["slope"] == 42
    assert "warning" not in capfd.readouterr().err
