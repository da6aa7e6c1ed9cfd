"""Artifacts on the Hugging Face Hub: read through the cache of huggingface_hub, and upload."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from compressae.retrieval.errors import InputError, MissingExtraError

_URL = re.compile(
    r"hf://(?:models/)?(?!(?:datasets|spaces|buckets)/)(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<folder>.*))?"
)
#: A repository's name without its scheme: owner/name.
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubFolder:
    """A folder of a model repository, at one commit.

    Attributes:
        repo: owner/name.
        revision: a branch, tag or commit; the default branch when None.
        folder: in the repository; "" for its root.

    >>> HubFolder.of("hf://anna/shoes@v2/small")
    HubFolder(repo='anna/shoes', revision='v2', folder='small')
    """

    repo: str
    revision: str | None = None
    folder: str = ""

    @classmethod
    def of(cls, url: str) -> "HubFolder | None":
        """The folder of a URL ``hf://owner/name[@revision][/folder]``; None of any other.

        Raises:
            InputError: the folder leads out of the repository.
        """
        match = _URL.fullmatch(url)
        if match is None:
            return None
        revision, folder = match["revision"], (match["folder"] or "").strip("/")
        if ".." in folder.split("/"):
            raise InputError(f"{url}: '..' leads out of the repository; expected a folder in it")
        return cls(match["repo"], revision and unquote(revision), folder)

    @property
    def url(self) -> str:
        """hf://owner/name@revision/folder."""
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.folder}" if self.folder else "")

    @cached_property
    def _snapshot(self) -> Path:
        """The cached files: config.json and what goes with it, all of one commit."""
        hub = require_hub(self.url)
        names = [f"{self.folder}/{name}".lstrip("/") for name in ("config.json", "*.safetensors")]
        with _named_errors(self.url):
            snapshot = hub.snapshot_download(
                self.repo, revision=self.revision, allow_patterns=names
            )
        return Path(snapshot, self.folder)

    def read_bytes(self, name: str, most: int) -> bytes:
        """Read a file of the folder, of at most so many bytes.

        Raises:
            FileNotFoundError: the folder has none of that name.
            InputError: the repository is missing, may not be read, or the Hub cannot be reached; or
                the file is larger.
            MissingExtraError: huggingface_hub is not installed.
        """
        file = self._snapshot / name  # A link into the cache of huggingface_hub.
        if not file.exists():
            raise FileNotFoundError(f"{self.url}/{name}: no such file")
        size = file.stat().st_size
        if size > most:
            raise InputError(f"{self.url}/{name}: {size} bytes; expected at most {most}")
        return file.read_bytes()


def as_hub_url(name: str, revision: str | None = None) -> str | None:
    """The URL of a repository's name or URL; None of what is neither.

    Raises:
        InputError: a revision beside a URL that has one.

    >>> as_hub_url("anna/shoes"), as_hub_url("anna/shoes", "v2"), as_hub_url("/home/anna/shoes")
    ('hf://anna/shoes', 'hf://anna/shoes@v2', None)
    """
    folder = HubFolder.of(name if not _NAME.fullmatch(name) else f"hf://{name}")
    if folder is None:
        return None
    if revision and folder.revision:
        raise InputError(f"{name}: revision {revision!r} beside the one of the URL; give one")
    return HubFolder(folder.repo, revision or folder.revision, folder.folder).url


def upload(
    folder: Path,
    repo: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    message: str = "Upload model",
) -> str:
    """Upload the files of a folder as one commit; the repository is made if there is none.

    Args:
        folder: its files replace those of their names; others stay.
        repo: owner/name.
        private: whether a new repository is; what the account prefers when None.
        branch: made if there is none; the default branch when None.
        message: of the commit.

    Returns:
        The commit's URL.

    Raises:
        InputError: no such name, no permission, or the Hub cannot be reached. Nothing was changed,
            but for an empty repository or a branch.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = require_hub(f"upload to {repo}")
    if not _NAME.fullmatch(repo):
        raise InputError(f"repository {repo!r}: expected owner/name")
    with _named_errors(f"hf://{repo}"):
        api = hub.HfApi(library_name="compressae")
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, revision=branch, commit_message=message
        )
    return str(commit.commit_url)


def require_hub(use: str) -> Any:
    """Import huggingface_hub.

    Raises:
        MissingExtraError: it is not installed; ``use`` says what needs it.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", use) from None
    return huggingface_hub


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Name the repository and the cure in errors of the block, one line each."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:  # The Hub's errors, and those of its HTTP client.
        reason = " ".join(str(error).split()) or type(error).__name__
        response = getattr(error, "response", getattr(error.__cause__, "response", None))
        status = getattr(response, "status_code", None)
        if isinstance(error, errors.RevisionNotFoundError):
            cure = "no such revision; expected a branch, tag or commit"
        elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
            cure = "no such repository, or no permission; log in: hf auth login"
        elif isinstance(error, errors.HFValidationError):
            cure = "expected owner/name"
        else:
            cure = "try again"
        raise InputError(f"{name}: {cure} ({reason})") from error
