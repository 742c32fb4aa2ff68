"""The house stays tidy: no size of the package grows past its limit."""

from tests import sizes


def test_no_size_is_past_its_limit(capsys):
    found = sizes.measure()
    report = sizes.table(found)
    with capsys.disabled():
        print(f"\n{report}")
    assert not [size.name for size in found if size.value > size.limit], report
