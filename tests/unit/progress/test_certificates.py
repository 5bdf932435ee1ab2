"""The receiver's own authority and certificate."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kubetune.progress.certificates import CERTIFICATE_LIFE, RENEW_BEFORE, Identity, is_due, issue

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ["kubetune.kubetune-system.svc", "10.0.0.1", "fd00::1"]


@pytest.fixture(scope="module")
def identity() -> Identity:
    return issue(NAMES, NOW)


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def test_it_is_issued_by_its_authority_for_its_names(identity: Identity):
    certificate, authority = load(identity.certificate), load(identity.authority)
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == NAMES[:1]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address(name) for name in NAMES[1:]]


def test_only_the_authority_may_sign(identity: Identity):
    for pem, signs in ((identity.authority, True), (identity.certificate, False)):
        extensions = load(pem).extensions
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is signs
        assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is signs


def test_a_clock_that_is_a_little_behind_accepts_it(identity: Identity):
    for pem in (identity.authority, identity.certificate):
        assert load(pem).not_valid_before_utc <= NOW - timedelta(minutes=5)


def test_it_is_due_in_time_and_for_other_names(identity: Identity):
    end = NOW + CERTIFICATE_LIFE
    assert not is_due(identity, NAMES, NOW)
    assert not is_due(identity, NAMES[::-1], NOW)
    assert not is_due(identity, NAMES, end - RENEW_BEFORE)
    assert is_due(identity, NAMES, end - RENEW_BEFORE + timedelta(seconds=1))
    assert is_due(identity, NAMES[:1], NOW)
    assert is_due(identity, [*NAMES, "other.svc"], NOW)


def test_a_certificate_that_names_nothing_is_replaced(identity: Identity):
    assert is_due(replace(identity, certificate=identity.authority), NAMES, NOW)


def test_a_renewal_is_trusted_by_trainers_that_run_already(identity: Identity):
    later = NOW + CERTIFICATE_LIFE
    renewed = issue(NAMES, later, identity)
    assert renewed.authority == identity.authority
    assert renewed.key != identity.key
    load(renewed.certificate).verify_directly_issued_by(load(identity.authority))
    assert not is_due(renewed, NAMES, later)


def test_an_authority_is_nobody_elses(identity: Identity):
    with pytest.raises(InvalidSignature):
        load(identity.certificate).verify_directly_issued_by(load(issue(NAMES, NOW).authority))


def test_a_key_that_is_none_is_said():
    with pytest.raises(ValueError):
        issue(NAMES, NOW, Identity("x", "x", "x", "x"))
