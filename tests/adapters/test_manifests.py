"""Reading manifest files: every fault has file, line, field and mend, and no Secret's value is ever told."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.adapters.manifests import Manifests, read_manifests
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.offline import check
from support.raw import raw_pool, raw_tenant, with_field

ROOT = Path(__file__).parents[2]
CANARY = "canary-7f3a9b"
POOL = yaml.safe_dump(raw_pool(), sort_keys=False)
SECRETS = f"""
apiVersion: v1
kind: Secret
metadata: {{name: keys, namespace: ai}}
stringData: {{api-key: {CANARY}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: team-key, namespace: ai}}
data: {{api-key: {base64.b64encode(b"canary-of-team").decode()}}}
"""


def read(directory: Path, text: str | bytes, name: str = "a.yaml") -> Manifests:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifests([path])


def told(found: Manifests) -> list[str]:
    assert CANARY not in repr(found)
    return [f"{Path(f.file).name}:{f.line}: {f.field}: {f.message}; {f.mend}" for f in found.faults]


def test_documents_in_any_order_and_secrets(tmp_path: Path) -> None:
    tenant = yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [raw_tenant()]})
    found = read(tmp_path, f"{SECRETS}\n---\n---\n{tenant}---\n{POOL}".replace("\n", "\r\n"))
    assert told(found) == []
    assert [p.key for p in found.pools] == [PoolKey("ai", "chat")]
    assert [q.key for q in found.quotas] == [PoolKey("ai", "team")]
    assert found.secrets[SecretRef("ai", "keys", "api-key")].reveal() == CANARY
    assert found.secrets[SecretRef("ai", "team-key", "api-key")].reveal() == "canary-of-team"


def test_directories_are_read_deep_and_json_too(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "pool.json").write_text(json.dumps(raw_pool()))
    (tmp_path / "readme.md").write_text("no: [manifest")
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "pool.yaml").write_text(POOL)
    assert told(read_manifests([tmp_path])) == []
    assert len(read_manifests([tmp_path]).pools) == 1


def test_unknown_field_names_its_line(tmp_path: Path) -> None:
    text = POOL.replace("    url:", "    weigth: 3\n    url:")
    line = text[: text.index("weigth")].count("\n") + 1
    found = read(tmp_path, text)
    assert told(found) == [f"a.yaml:{line}: spec.endpoints[0].weigth: unknown field; did you mean weight?"]
    assert found.invalid == {PoolKey("ai", "chat")}


def test_missing_field_names_the_line_of_its_parent(tmp_path: Path) -> None:
    text = POOL.replace("    url: https://contoso.openai.azure.com\n", "")
    line = text[: text.index("- name: east")].count("\n") + 1
    assert [fault.line for fault in read(tmp_path, text).faults] == [line]


def test_two_of_one_name_name_both_places(tmp_path: Path) -> None:
    found = read(tmp_path, f"{POOL}---\n{POOL}")
    (fault,) = found.faults
    assert fault.field == "metadata.name"
    assert fault.message == f"is given twice; the first is at {tmp_path}/a.yaml:4"
    assert len(found.pools) == 1


@pytest.mark.parametrize(
    ("text", "line", "field", "message"),
    [
        ("a: [b\n", 2, "", "is not YAML: did not find expected ',' or ']'"),
        ("kind: AOAIBackendPool\n\tspec: 1\n", 2, "", "is not YAML"),
        (f"apiVersion: v1\nkind: Secret\nx: *{CANARY}\n", 3, "", "is not YAML: found undefined alias"),
        (f"kind: Secret\nx: !{CANARY} [\n", 3, "", "is not YAML"),
        (f"kind: Secret\nx: '{CANARY}\n", 3, "", "is not YAML"),
        (f"- {CANARY}\n", 1, "", "must be a Kubernetes resource"),
        (CANARY, 1, "", "must be a Kubernetes resource"),
        (b"\x00\x01\x02\xff\xfe", 1, "", "is not UTF-8 text"),
        (b"\x00\x01\x02", 1, "", "is not YAML"),
        ("[" * 100_000, 1, "", "is nested deeper"),
        ("a: " + "{a: " * 100 + "1" + "}" * 100, 1, "", "is too large or refers to itself"),
        ("kind: List\nitems: &x [*x]\n", 2, "", "is too large or refers to itself"),
        ("kind: Secret\nkind: Secret\napiVersion: v1\nmetadata: {name: a}", 2, "kind", "is given twice"),
        ("kind: Secret\nmetadata: {name: a}\n", 1, "apiVersion", "must be v1"),
        ('kind: Secret\napiVersion: v1\nmetadata: {name: "a\\r\\nb"}\n', 3, "metadata.name", "must be a name"),
        ("kind: Secret\napiVersion: v1\n", 1, "metadata.name", "must be a name"),
        (
            f"kind: Secret\napiVersion: v1\nmetadata: {{name: a}}\ndata:\n  k: {CANARY}!\n",
            5,
            "data.k",
            "must be a text in base64",
        ),
        (
            f"kind: Secret\napiVersion: v1\nmetadata: {{name: a}}\nstringData: {CANARY}\n",
            4,
            "stringData",
            "must be a map of texts",
        ),
        (
            f"kind: Secret\napiVersion: v1\nmetadata: {{name: a}}\nstringData:\n  k: [{CANARY}]\n",
            5,
            "stringData.k",
            "must be a text",
        ),
        (
            f'kind: Secret\napiVersion: v1\nmetadata: {{name: a}}\nstringData:\n  "{CANARY}\\n": x\n',
            4,
            "stringData",
            "has a key that is not allowed",
        ),
        ("kind: TenantQuota\napiVersion: v1\nmetadata: {name: a}\nspec: {}", 2, "apiVersion", "must be aoai.dev/"),
        ("kind: AOAIPool\napiVersion: aoai.dev/v1alpha1\n", 1, "kind", "must be one of"),
    ],
)
def test_bad_input_gets_an_answer(tmp_path: Path, text: str | bytes, line: int, field: str, message: str) -> None:
    found = read(tmp_path, text)
    assert found.faults, text
    assert CANARY not in "\n".join(told(found))
    assert any(f.line == line and f.field == field and f.message.startswith(message) for f in found.faults), told(found)


def test_aliases_and_merges_are_understood_but_do_not_explode(tmp_path: Path) -> None:
    text = POOL.replace("  models:\n  - name: gpt-4o", "  models:\n  - &m {name: gpt-4o}").replace(
        "  - name: mini", "  - {<<: *m, name: mini}"
    )
    found = read(tmp_path, text)
    assert told(found) == []
    assert [m.name for m in found.pools[0].spec.models] == ["gpt-4o", "mini"]
    laughs = "\n".join(f"l{i}: &l{i} [{','.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9))
    assert "is too large" in "".join(told(read(tmp_path, f"l0: &l0 [x]\n{laughs}\n")))


def test_large_missing_and_empty_files(tmp_path: Path) -> None:
    assert "is larger than" in told(read(tmp_path, b"#" * (17 * 1024 * 1024)))[0]
    ten = read(tmp_path, f"{POOL}# " + "x" * (10 * 1024 * 1024))
    assert told(ten) == []
    assert len(ten.pools) == 1
    assert told(read(tmp_path, "")) == []
    assert "cannot be read: No such file" in told(read_manifests([tmp_path / "none.yaml"]))[0]
    (tmp_path / "empty").mkdir()
    assert "holds no manifest" in told(read_manifests([tmp_path / "empty"]))[0]


def test_a_broken_file_is_named_as_unreadable_and_what_stands_before_the_error_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, f"{POOL}---\na: [")
    assert found.unreadable == {str(tmp_path / "a.yaml")}
    assert len(found.pools) == 1


def test_a_field_given_twice_makes_its_object_invalid_and_is_told_of_it_alone(tmp_path: Path) -> None:
    twice = POOL.replace("  models:", "  suspend: true\n  suspend: false\n  models:")
    other = raw_pool()
    other["metadata"]["name"] = "other"
    indented = "".join(f"  {line}\n" for line in f"{twice}".splitlines())
    items = f"- {indented[2:]}- {json.dumps(other)}\n"
    for text in (f"{twice}---\n{json.dumps(other)}", f"apiVersion: v1\nkind: List\nitems:\n{items}"):
        found = read(tmp_path, text)
        assert found.invalid == {PoolKey("ai", "chat")}
        assert [pool.key.name for pool in found.pools] == ["other"]
        assert [(f.object, f.field) for f in found.faults] == [("AOAIBackendPool ai/chat", "spec.suspend")]
        assert text.splitlines()[found.faults[0].line - 1].strip() == "suspend: false"


def test_other_kinds_are_noted(tmp_path: Path) -> None:
    found = read(tmp_path, "kind: ConfigMap\napiVersion: v1\n")
    assert [note.message for note in found.notes] == ["ConfigMap is ignored"]
    assert found.faults == ()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@\n\t ?,", max_size=60).map(str.encode))
def test_never_raises(tmp_path: Path, text: bytes) -> None:
    read(tmp_path, text)


def test_examples_pass_the_check() -> None:
    assert check([ROOT / "examples"]).exit_code == 0
    for folder in ("smallest", "ptu-first", "two-tenants", "blue-green", "sidecar", "workload-identity", "discovery"):
        report = check([ROOT / "examples" / folder])
        assert report.text().splitlines()[-1].startswith("1 pool, "), folder
        assert report.text().endswith(": all good"), folder


def test_check_joins_both_lists_in_text_and_json(tmp_path: Path) -> None:
    tenant = yaml.safe_dump(with_field(raw_tenant(), "spec.poolRefs[0].name", "none"), sort_keys=False)
    path = tmp_path / "a.yaml"
    path.write_text(f"{POOL}---\n{tenant}---{SECRETS}")
    report = check([path])
    assert report.exit_code == 1
    assert CANARY not in report.text() + report.json() + repr(report)
    (fault,) = report.faults
    line = path.read_text().splitlines().index("  - name: none") + 1
    assert (fault.line, fault.object, fault.field) == (line, "TenantQuota ai/team", "spec.poolRefs[0]")
    assert report.text().splitlines()[-1] == "1 pool, 1 tenant: 1 fault"
    document = json.loads(report.json())
    assert document["valid"] is False
    assert document["faults"][0]["file"] == str(path)


def test_nothing_to_check_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    assert check([tmp_path]).exit_code == 1
    assert [fault.file for fault in check([tmp_path]).faults] == [str(tmp_path)]


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in told(read_manifests([tmp_path / "pipe"]))[0]


@pytest.mark.parametrize("text", ["spec:\n\tmodels: 1\n", "spec:\n  a: b\n  \tc: d\n", "kind: x\n\tspec: 1\n"])
def test_tabs_are_named(tmp_path: Path, text: str) -> None:
    (sentence,) = told(read(tmp_path, text))
    assert sentence.endswith("indent with spaces, not with tabs")
