"""A profile is one of three, and each of the three can run the notebook."""

import pytest

from whichbackbone import profiles


def test_chooses_the_settings_of_the_profile():
    settings = {name: dict(seeds=seeds) for name, seeds in zip(profiles.NAMES, (1, 3, 10), strict=True)}
    assert [profiles.choose(name, **settings).seeds for name in profiles.NAMES] == [1, 3, 10]


@pytest.mark.parametrize("wrong", ["quick", "", "Standard"])
def test_unknown_profile_names_the_three(wrong):
    with pytest.raises(ValueError, match=f"unknown profile '{wrong}': choose one of smoke, standard, full"):
        profiles.choose(wrong, smoke={}, standard={}, full={})


def test_a_setting_that_only_some_profiles_have_fails_in_every_profile():
    with pytest.raises(ValueError, match="'full' lacks epochs, lr"):
        profiles.choose("smoke", smoke=dict(epochs=1, lr=1), standard=dict(epochs=2, lr=1), full={})
