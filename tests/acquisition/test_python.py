import numpy as np
import pytest
import torch

from alearn.acquisition import PythonAcquisition
from alearn.errors import ConfigError, UnknownName
from alearn.testing.acquisition import SPACES, WaveEnsemble, context_for

PLANE = SPACES["2-D"]
FILE = '''
import torch

def my_score(surrogate, X, context):
    """Likes the corner (1, 0)."""
    return X[:, 0] - X[:, 1]
'''


def choose(score, q=3, **options):
    return PythonAcquisition(target=score, pool=256, **options).select(WaveEnsemble(2), PLANE, q, context_for(PLANE))


def test_a_function_in_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    chosen = choose(f"{path}:my_score", q=2, gamma=0.0)
    assert np.linalg.norm(chosen.x - [1, 0], axis=1).max() < 0.3
    assert chosen.scores == pytest.approx(chosen.x[:, 0] - chosen.x[:, 1])
    assert "my_score" in chosen.reasons[0]


def test_numpy_scores_and_callable_objects_are_fine():
    class Scorer:
        def __call__(self, surrogate, X, context):
            return X.numpy()[:, 1]

    assert choose(Scorer(), q=1, gamma=0.0).x[0, 1] > 0.98


def test_scores_with_a_gradient_are_fine():
    assert len(choose(lambda s, X, c: (X * torch.ones(2, dtype=torch.float64, requires_grad=True)).sum(1)).x) == 3


def test_gamma_spreads_the_batch():
    def gaps(gamma):
        x = choose(lambda s, X, c: -((X - 0.5) ** 2).sum(1), q=5, gamma=gamma).x
        return np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(5, 1)].min()

    assert gaps(1.0) > 2 * gaps(0.0)


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda s, X, c: X, r"returned shape \(256, 2\) for 256 candidates"),
        (lambda s, X, c: X[:, 0] / 0 * 0, "256 scores that are NaN or infinite"),
        (lambda s, X, c: s.no_such_thing, "raised AttributeError"),
        (lambda s, X, c: None, "raised TypeError"),
    ],
)
def test_a_wrong_function_is_named_with_what_it_did(score, says):
    with pytest.raises(ConfigError, match=says):
        choose(score)


def test_a_wrong_target_is_refused_at_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE + "\nnumber = 3\n")
    with pytest.raises(ConfigError, match=r"needs acquisition\.target"):
        PythonAcquisition()
    with pytest.raises(UnknownName, match="Did you mean 'my_score'"):
        PythonAcquisition(target=f"{path}:my_scor")
    with pytest.raises(ConfigError, match="is a int, not a function"):
        PythonAcquisition(target=f"{path}:number")
    with pytest.raises(ConfigError, match="does not exist"):
        PythonAcquisition(target=str(tmp_path / "none.py:f"))


def test_the_users_function_cannot_change_the_pool():
    def vandal(surrogate, X, context):
        X *= 2
        return X[:, 0]

    assert choose(vandal).x.max() <= 1
