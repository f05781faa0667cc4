import inspect

import pytest
import torch

from ortho_lightning import errors
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import LSH


def test_every_error_derives_from_one_base_class():
    found = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__]
    assert len(found) >= 5
    assert all(issubclass(kind, errors.OrthoLightningError) for kind in found)


@pytest.mark.parametrize("options", [{"lambda1": -1}, {"probe": "x"}, {"gamma": 0.0}, {"reduction": "none"}])
def test_bad_arguments_of_a_regularizer_raise_the_same_kind(options):
    with pytest.raises(errors.ConfigurationError):
        LSH(**options)


def test_bad_tensors_raise_errors_of_the_package_that_are_type_and_value_errors():
    with pytest.raises(errors.OrthoLightningError) as wrong_dtype:
        OF.gram_penalty(torch.ones(2, 2, dtype=torch.int64))
    assert isinstance(wrong_dtype.value, TypeError)
    with pytest.raises(errors.OrthoLightningError) as wrong_shape:
        OF.gram_penalty(torch.ones(2))
    assert isinstance(wrong_shape.value, ValueError)
