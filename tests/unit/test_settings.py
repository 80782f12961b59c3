"""Settings: what is refused, what is warned about, and the file that shows them all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from growbin.config import BadSetting, Settings, env_example, load_settings, near_misses

ROOT = Path(__file__).parents[2]
WRITE_IT = (
    'python -c "from growbin.config import env_example; print(env_example(), end=str())" > .env.example'
)


def test_example_file_shows_every_setting_with_its_default() -> None:
    """The file in the repository is the one that the settings make."""
    assert (ROOT / ".env.example").read_text() == env_example(), f"write it anew: {WRITE_IT}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REDIS_ULR", "REDIS_URL"),
        ("S3_BUCKET", "S3_BUCKET_NAME"),
        ("OPENAI_API_KEYS", "OPENAI_API_KEY"),
        ("GROWBIN_PORT", "PORT"),
        ("PHOTO_MAX_BYTE", "PHOTO_MAX_BYTES"),
    ],
)
def test_name_that_is_nearly_a_setting_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    """It would be passed over in silence, and the default used."""
    monkeypatch.setenv(name, "1")
    assert f"{name} is no setting; {meant} is" in near_misses()


@pytest.mark.parametrize(
    "name",
    [
        *("HOSTNAME", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "REDIS_PORT", "REDIS_SERVICE_HOST"),
        *("OPENAI_ORG_ID", "GROWBIN_SERVER", "GATEWAY_PORT", "PATH", "REDIS_URL"),
    ],
)
def test_names_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Shells, clusters and vendors set many; a warning for them would teach not to read warnings."""
    for known in list(os.environ):
        monkeypatch.delenv(known)
    monkeypatch.setenv(name, "1")
    assert near_misses() == []


@pytest.mark.parametrize(
    "origins", ["*", "null", "app.example", "https://app.example/page", "https://*,http://a"]
)
def test_origin_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    """Above all the star, which here would never match and elsewhere means everybody."""
    monkeypatch.setenv("ALLOWED_ORIGINS", origins)
    with pytest.raises(BadSetting, match="ALLOWED_ORIGINS"):
        load_settings()


def test_origins_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a port."""
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://app.example, http://127.0.0.1:3000")
    assert load_settings().origins == {"https://app.example", "http://127.0.0.1:3000"}


def test_role_urls_of_sentinels_keep_their_service() -> None:
    """Each role has its database behind the same sentinels."""
    url = "redis+sentinel://:secret@one:26379,two:26379/growbin"
    settings = Settings(redis_url=url)
    assert settings.redis_progress_url == f"{url}/2"


@pytest.mark.parametrize("url", ["redis+sentinel://one:26379", "redis+sentinel://one:26379/", "http://one"])
def test_redis_url_that_leads_nowhere_is_refused_with_an_example(url: str) -> None:
    """Sentinels without a service, and another scheme."""
    with pytest.raises(ValidationError, match=r"redis\+sentinel://host,host/service"):
        Settings(redis_url=url)
