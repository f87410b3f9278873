import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Requests to other machines fail: they go to a proxy that nobody runs."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
