"""The error that is a user's to mend, and the one of a device that is full."""

import pickle

import pytest

from recurrentgemma.errors import UserError, did_you_mean, is_out_of_memory


def test_an_error_names_its_field():
    error = UserError("temperature is -1", field="temperature")
    assert (str(error), error.field) == ("temperature is -1", "temperature")
    assert UserError("of no field").field is None
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field) == (str(error), error.field)


def test_the_nearest_name():
    assert did_you_mean("temprature", ["seed", "temperature"]) == " (did you mean 'temperature'?)"
    assert did_you_mean("quux", ["seed", "temperature"]) == ""


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes."), True),
        (MemoryError(), True),
        (RuntimeError("INTERNAL: something else"), False),
    ],
)
def test_out_of_memory(error, full):
    assert is_out_of_memory(error) == full
