"""The weights that a tag of CLIP names: from this machine's cache, else from the network, else one clear error soon."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds for a server to answer
OPENAI_CACHE = Path("~/.cache/clip").expanduser()  # of open_clip and `clip`, for files that lie on no hub


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        file: its name. url: its address. cache: the folder where it is kept. cached: whether it is there.
    """

    file: str
    url: str
    cache: str
    cached: bool

    def missed(self, tag: str, reason: object) -> OSError:
        """The error of weights that are not to be had."""
        return OSError(
            f'MODEL.CLIP.WEIGHTS "{tag}": {self.file} can be had neither from {self.cache} nor from {self.url} '
            f"({' '.join(str(reason).split())[:200]}). Run once where there is a network, or fetch the file and name "
            f"it: MODEL.CLIP.WEIGHTS path/to/{self.file}."
        )


def with_weights_of_tag(create: Callable[[], Any], architecture: str, tag: str) -> Any:
    """What `create` gives, an open_clip model with the weights of a tag. What is cached is taken without asking the
    network, which may not be there.

    Raises: OSError naming key, file, cache and address, in seconds where the server does not answer: the hub's client
        would try for a minute.
    """
    import open_clip

    source = source_of(open_clip.get_pretrained_cfg(architecture, tag))
    if source.cached:
        with suppress(OSError, RuntimeError), _hub_offline():  # a tokenizer, say, may be missing all the same
            return create()
    require_server(source, tag)
    try:
        return create()
    except (OSError, RuntimeError) as error:
        raise source.missed(tag, error) from error


def source_of(pretrained: dict[str, Any]) -> Source:
    """Of an entry of open_clip's table."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache

    repository, _, file = pretrained.get("hf_hub", "").rpartition("/")
    if not repository:
        return source_at(pretrained["url"])
    files = _candidates(file)
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in files)
    return Source(files[0], hf_hub_url(repository, files[0]), constants.HF_HUB_CACHE, cached)


def source_at(url: str) -> Source:
    """Of a file that lies on no hub."""
    name = url.rpartition("/")[2]
    return Source(name, url, str(OPENAI_CACHE), (OPENAI_CACHE / name).is_file())


def _candidates(file: str) -> list[str]:
    """What open_clip looks for in a repository, in its order."""
    if not file:
        return ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    stem, suffix = os.path.splitext(file)
    return [f"{stem}.safetensors", file] if suffix in (".bin", ".pth") else [file]


def require_server(source: Source, tag: str) -> None:
    """Raises OSError where nobody answers at the address; what is answered is not looked at."""
    try:
        urllib.request.urlopen(urllib.request.Request(source.url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # a question of certificates, for which the client has settings
            raise source.missed(tag, reason) from error


@contextmanager
def _hub_offline() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
