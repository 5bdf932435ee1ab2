"""s3://bucket/key: objects of AWS or of a compatible store.

awscrt, AWS's own library, signs requests and finds workload identity. Our own client sends them, so that they
are checked, resumed and stopped like all others.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from awscrt.auth import (
    AwsCredentialsProvider,
    AwsSignatureType,
    AwsSignedBodyHeaderType,
    AwsSignedBodyValue,
    AwsSigningAlgorithm,
    AwsSigningConfig,
    aws_sign_request,
)
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from yarl import URL

from kubetune.api.uris import parse_s3
from kubetune_trainer.errors import DataError
from kubetune_trainer.sources.client import ERROR_BYTES, Passing, SourceClient
from kubetune_trainer.sources.names import Choose, fixed_folder
from kubetune_trainer.sources.remote import Checksum, RemoteFile, Request
from kubetune_trainer.sources.secret import AUTHORITY, Secret

_AMBIENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
"""Variables that workload identity (compute.serviceAccountName) or the user sets."""
_SIGNING_SECONDS = 30
_ELSEWHERE = (301, 307, 400)
"""Statuses that may mean another region."""
_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
}
_MD5 = re.compile('"?([0-9a-f]{32})"?')


class S3:
    """Objects of a bucket."""

    def __init__(self, uri: str, where: str, secret: Secret, choose: Choose) -> None:
        self.where, self._secret, self._choose = where, secret, choose
        found = parse_s3(uri)
        self._bucket, self._key = found.bucket, found.key
        self._endpoint = secret.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
        self._region = (
            secret.get("AWS_REGION")
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or "us-east-1"
        )
        self._provider = self._credentials()
        # A store redirects to another region, for which the request must be signed again.
        self.client = SourceClient(where, secret, self._explain, redirects=0)
        self.place = f"{self._endpoint or 'aws'} {self._bucket}"

    async def files(self) -> list[RemoteFile]:
        """The object with this name, else those below it."""
        if self._key and "*" not in self._key and (found := await self._object()):
            self._choose([found.path], self._key, self.where)
            return [found]
        folder = fixed_folder(self._key)
        listed = {file.path: file for file in await self._list(f"{folder}/" if folder else "")}
        return [listed[name] for name in self._choose(listed, self._key, self.where)]

    def request(self, file: RemoteFile) -> Request:
        """The request for an object, which fails if it is no longer the one that was listed."""
        signed = self._signed("GET", file.path)
        return Request(signed.url, {"If-Match": file.identity}, signed.credentials)

    def is_same(self, file: RemoteFile, headers: Mapping[str, str]) -> bool:
        """Whether the ETag is the same."""
        return headers.get("ETag") == file.identity

    def checksum(self, file: RemoteFile, headers: Mapping[str, str]) -> Checksum | None:
        """The MD5 in the ETag, but not of an object uploaded in parts (it has a -) or with certain keys."""
        md5 = _MD5.fullmatch(file.identity)
        plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
        customer = "x-amz-server-side-encryption-customer-algorithm" in headers
        return Checksum("md5", md5[1]) if md5 and plain and not customer else None

    async def _object(self) -> RemoteFile | None:
        """The object with exactly this name; None: there is none, or the store does not tell."""

        status, headers, _ = await self._ask("HEAD")
        # A store that wants another region says so in a header, or in a body, and HEAD has no body.
        if status in _ELSEWHERE and (self._moves(headers, b"") or self._moves(*(await self._ask("GET"))[1:])):
            status, headers, _ = await self._ask("HEAD")
        if status != 200:
            return None  # Listing then tells why.
        return _file(self._key, int(headers["Content-Length"]), headers.get("ETag", ""))

    async def _ask(self, method: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status and headers, and the body of an error."""

        async def once() -> tuple[int, Mapping[str, str], bytes]:
            expected = (200, 403, 404, *_ELSEWHERE)
            async with self.client.open(
                self._signed(method, self._key), method, expected=expected
            ) as response:
                body = b"" if response.status == 200 else await response.content.read(ERROR_BYTES)
                return response.status, response.headers, body

        return await self.client.insist(once)

    async def _list(self, prefix: str) -> list[RemoteFile]:
        found: list[RemoteFile] = []
        query = {"list-type": "2", "prefix": prefix}
        while True:
            page = await self.client.insist(partial(self._page, dict(query)))
            for entry in page.iterfind("{*}Contents"):
                key = entry.findtext("{*}Key", "")
                if not key.endswith("/"):  # some tools mark a folder so
                    found.append(
                        _file(key, int(entry.findtext("{*}Size", "0")), entry.findtext("{*}ETag", ""))
                    )
            if page.findtext("{*}IsTruncated") != "true":
                return found
            query["continuation-token"] = page.findtext("{*}NextContinuationToken", "")

    async def _page(self, query: dict[str, str]) -> ElementTree.Element:
        for _ in range(2):
            request = self._signed("GET", "", query)
            async with self.client.open(request, expected=(200, *_ELSEWHERE)) as response:
                body = await response.read()
                if response.status == 200:
                    return self._parsed(body)
                if not self._moves(response.headers, body):
                    said = self._explain(response.status, response.headers, body)
                    raise DataError(
                        f"{self.where}: {said or f'the store answers with HTTP {response.status}'}"
                    )
        raise DataError(
            f"{self.where}: the bucket's region cannot be found: name it by AWS_REGION in {self._secret}"
        )

    def _moves(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Switch to the region that the store names; whether it is another one."""
        named = headers.get("x-amz-bucket-region") or _error(body).get("Region")
        if not named or named == self._region:
            return False
        self._region = named
        return True

    def _parsed(self, body: bytes) -> ElementTree.Element:
        try:
            return ElementTree.fromstring(body)  # noqa: S314 - expat refuses entities that blow up
        except ElementTree.ParseError as error:
            raise DataError(
                f"{self.where}: the server does not speak S3: correct AWS_ENDPOINT_URL in {self._secret}"
            ) from error

    def _url(self, key: str, query: Mapping[str, str]) -> URL:
        path = quote(f"/{key}", safe="/-_.~")
        if self._endpoint:
            base = f"{self._endpoint.rstrip('/')}/{self._bucket}"
        elif "." in self._bucket:  # no wildcard certificate covers such a name
            base = f"https://s3.{self._region}.{self._domain}/{self._bucket}"
        else:
            base = f"https://{self._bucket}.s3.{self._region}.{self._domain}"
        return URL(base + path + ("?" + urlencode(query, quote_via=quote) if query else ""), encoded=True)

    @property
    def _domain(self) -> str:
        return "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"

    def _signed(self, method: str, key: str, query: Mapping[str, str] = {}) -> Request:
        url = self._url(key, query)
        if self._provider is None:
            return Request(str(url))
        host = url.authority if url.explicit_port else str(url.host)
        request = HttpRequest(method, url.raw_path_qs, HttpHeaders([("Host", host)]))
        config = AwsSigningConfig(
            algorithm=AwsSigningAlgorithm.V4,
            signature_type=AwsSignatureType.HTTP_REQUEST_HEADERS,
            credentials_provider=self._provider,
            region=self._region,
            service="s3",
            use_double_uri_encode=False,
            should_normalize_uri_path=False,
            signed_body_value=AwsSignedBodyValue.EMPTY_SHA256,
            signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
        )
        try:
            aws_sign_request(request, config).result(_SIGNING_SECONDS)
        except (AwsCrtError, TimeoutError) as error:
            raise Passing(f"no credentials come from workload identity ({error})") from error
        return Request(str(url), credentials=dict(request.headers))

    def _credentials(self) -> AwsCredentialsProvider | None:
        self._secret.require_one_of("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_REGION", AUTHORITY)
        if key := self._secret.get("AWS_ACCESS_KEY_ID"):
            return AwsCredentialsProvider.new_static(
                key,
                self._secret.need("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
                self._secret.get("AWS_SESSION_TOKEN"),
            )
        if any(os.environ.get(name) for name in _AMBIENT):
            # The node's own role is not the tenant's, so the instance metadata service is not asked.
            os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
            return AwsCredentialsProvider.new_default_chain()
        return None

    def _explain(self, status: int, headers: Mapping[str, str], body: bytes) -> str:
        code = _error(body).get("Code", "")
        if code == "NoSuchBucket":
            return (
                f"there is no bucket {self._bucket}: correct the uri, or AWS_ENDPOINT_URL in {self._secret}"
            )
        if code in _CREDENTIALS:
            return f"the store refuses the credentials ({code}): correct {self._secret}"
        if code == "AccessDenied" and self._provider is None:
            return "the store forbids it (AccessDenied): name a Secret with credentials in secretRef"
        if code == "AccessDenied":
            return (
                f"the store forbids it (AccessDenied): allow the credentials of {self._secret} s3:GetObject, "
                "and "
                "s3:ListBucket where the uri is no single object"
            )
        return (
            f"the store answers with {code} (HTTP {status}): correct the uri or {self._secret}"
            if code
            else ""
        )


def _file(key: str, size: int, etag: str) -> RemoteFile:
    return RemoteFile(key, size, etag, etag or None)


def _error(body: bytes) -> dict[str, str]:
    """The fields of an error document."""
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - as above
    except ElementTree.ParseError:
        return {}
    return {child.tag.rpartition("}")[2]: child.text or "" for child in root}
