"""hf://[datasets/]org/name[@revision][/path]: repositories of the Hugging Face hub, or of a mirror.

The hub's HTTP API is called directly. huggingface_hub can only be online or offline as a whole process. So
HF_HUB_OFFLINE stays set, and nothing else in a training pod ever calls the hub.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from yarl import URL

from kubetune.api.uris import parse_hub
from kubetune_trainer.errors import DataError
from kubetune_trainer.sources.client import SourceClient
from kubetune_trainer.sources.names import Choose, fixed_folder
from kubetune_trainer.sources.remote import Checksum, RemoteFile, Request
from kubetune_trainer.sources.secret import AUTHORITY, Secret

PUBLIC = "https://huggingface.co"


class Hub:
    """Files of a repository at one commit."""

    def __init__(self, uri: str, where: str, secret: Secret, choose: Choose) -> None:
        self.where, self._secret, self._choose = where, secret, choose
        self._uri = parse_hub(uri)
        self._endpoint = (secret.get("HF_ENDPOINT") or PUBLIC).rstrip("/")
        secret.require_one_of("HF_TOKEN", "HF_ENDPOINT", AUTHORITY)
        self._commit = ""
        self.client = SourceClient(where, secret, self._explain)
        self._name = f"{'datasets/' if self._uri.is_dataset else ''}{self._uri.repository}"
        self.place = f"{self._endpoint} {self._name}"

    async def files(self) -> list[RemoteFile]:
        """The files of the revision's commit, which does not change while they are downloaded."""
        path, kind = self._uri.path, "datasets" if self._uri.is_dataset else "models"
        api = f"/api/{kind}/{self._uri.repository}"
        [answer] = await self._pages(f"{api}/revision/{quote(self._uri.revision, safe='')}")
        self._commit = str(answer.get("sha", "")) if isinstance(answer, dict) else ""
        if not self._commit:
            raise self._no_hub()
        folder = fixed_folder(path)
        if path and "*" not in path:
            # The path of a file has no tree of its own.
            beside = await self._tree(api, path.rpartition("/")[0], recursive=False)
            if any(entry.get("path") == path and entry.get("type") == "file" for entry in beside):
                return self._chosen(beside)
        return self._chosen(await self._tree(api, folder, recursive=True))

    def request(self, file: RemoteFile) -> Request:
        """The request for a file."""
        path = quote(f"/{self._name}/resolve/{self._commit}/{file.path}", safe="/-_.~")
        return self._request(path)

    def is_same(self, file: RemoteFile, headers: Mapping[str, str]) -> bool:
        """Always: a commit never changes, and the checksum is compared in the end."""
        return True

    def checksum(self, file: RemoteFile, headers: Mapping[str, str]) -> Checksum | None:
        """The checksum that git has."""
        return file.checksum

    def _chosen(self, entries: list[dict[str, Any]]) -> list[RemoteFile]:
        files = {str(e["path"]): _file(e) for e in entries if e.get("type") == "file"}
        return [files[name] for name in self._choose(files, self._uri.path, self.where)]

    async def _tree(self, api: str, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        path = quote(f"{api}/tree/{self._commit}" + (f"/{folder}" if folder else ""), safe="/-_.~")
        pages = await self._pages(path + ("?recursive=true" if recursive else ""))
        if not all(isinstance(page, list) for page in pages):
            raise self._no_hub()
        return [entry for page in pages for entry in page]

    async def _pages(self, path: str) -> list[Any]:
        """The JSON of an answer and of all pages that follow it."""
        found, request = [], self._request(path)
        while True:
            answer: tuple[Mapping[str, str], bytes] = await self.client.read(request)
            headers, body = answer
            try:
                found.append(json.loads(body))
            except ValueError as error:
                raise self._no_hub() from error
            following = _following(headers.get("Link", ""))
            if following is None:
                return found
            url = URL(request.url, encoded=True).join(URL(following, encoded=True))
            if url.origin() != URL(request.url, encoded=True).origin():
                raise self._no_hub()
            request = Request(str(url), credentials=request.credentials)

    def _request(self, path: str) -> Request:
        token = self._secret.get("HF_TOKEN")
        return Request(
            self._endpoint + path, credentials={"Authorization": f"Bearer {token}"} if token else {}
        )

    def _no_hub(self) -> DataError:
        return DataError(
            f"{self.where}: {self._endpoint} does not speak the hub's API: correct HF_ENDPOINT in "
            f"{self._secret}"
        )

    def _explain(self, status: int, headers: Mapping[str, str], body: bytes) -> str:
        code, name = headers.get("X-Error-Code", ""), self._name
        if code == "RevisionNotFound":
            return f"{name} has no revision {self._uri.revision}: correct what follows the @ in the uri"
        if code == "GatedRepo":
            return (
                f"{name} is gated: accept its conditions on the hub with the account of HF_TOKEN, and name a "
                "Secret "
                "with that token in secretRef"
            )
        if code == "EntryNotFound":
            return f"{name} has nothing at {self._uri.path or 'its root'}: correct the path in the uri"
        if code == "RepoNotFound" or (status == 401 and not self._secret.file("HF_TOKEN")):
            return (
                f"the hub shows no repository {name}: correct the uri, or, where it is private, name a "
                "Secret with a "
                "fitting HF_TOKEN in secretRef"
            )
        if status == 401:
            return f"the hub refuses the token: correct HF_TOKEN in {self._secret}"
        return ""


def _file(entry: Mapping[str, Any]) -> RemoteFile:
    lfs = entry.get("lfs")
    if lfs:
        return RemoteFile(
            entry["path"], int(lfs["size"]), lfs["oid"], checksum=Checksum("sha256", lfs["oid"])
        )
    return RemoteFile(entry["path"], int(entry["size"]), entry["oid"], checksum=Checksum("git", entry["oid"]))


def _following(link: str) -> str | None:
    """The URL of the next page in a Link header."""
    for part in link.split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            return address.strip().strip("<>")
    return None
