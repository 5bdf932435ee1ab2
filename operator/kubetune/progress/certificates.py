"""The receiver's own authority and certificate. Pure but for the randomness of keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class Identity:
    """PEM texts."""

    authority: str
    """Certificate of the authority that trainers trust."""
    authority_key: str
    """Its private key."""
    certificate: str
    """The receiver's certificate."""
    key: str
    """Its private key."""


def issue(names: Sequence[str], now: datetime, previous: Identity | None = None) -> Identity:
    """A fresh certificate.

    Args:
        names: DNS names and IP addresses of the receiver.
        now: the clock.
        previous: its authority is kept, so that trainers which run already go on trusting the receiver.
    """
    if previous is None:
        authority_key = ec.generate_private_key(ec.SECP256R1())
        subject = _name("kubetune-progress-ca")
        authority = (
            _builder(subject, subject, authority_key, now, AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
    else:
        loaded = serialization.load_pem_private_key(previous.authority_key.encode(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an elliptic-curve key")
        authority_key = loaded
        authority = x509.load_pem_x509_certificate(previous.authority.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("kubetune-progress"), authority.subject, key, now, CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return Identity(_pem(authority), _key_pem(authority_key), _pem(certificate), _key_pem(key))


def is_due(identity: Identity, names: Sequence[str], now: datetime) -> bool:
    """Whether the certificate should be issued anew: soon to expire, or for other names."""
    certificate = x509.load_pem_x509_certificate(identity.certificate.encode())
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:  # somebody else's certificate
        return True
    if set(alternative) != {_alternative(name) for name in names}:
        return True
    return certificate.not_valid_after_utc - now < RENEW_BEFORE


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A trainer's clock may be behind ours.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
