"""The commands of docs/deploy/kubernetes.md and kserve.md, with stand-ins for a cluster."""

import re
import shutil
import subprocess

import pytest

from tests.deploy.manifests.commands import BLOCK, Cluster, calls
from tests.deploy.manifests.render import ROOT

PAGES = {
    name: (ROOT / "docs" / "deploy" / f"{name}.md").read_text() for name in ("kubernetes", "kserve")
}
each_page = pytest.mark.parametrize("name", PAGES)
needs_kubectl = pytest.mark.skipif(
    not (shutil.which("kubectl") and shutil.which("openssl")), reason="kubectl, openssl"
)
CHAPTERS = {
    *("Prerequisites", "Install", "See that it works", "Upgrade without a failed request"),
    *("What is lost when a node dies", "Size", "Alert", "Remove"),
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    subprocess.run(
        [*command.split(), "-subj", "/CN=rope", "-keyout", "tls.key", "-out", "tls.crt"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def folder(certificate, tmp_path):
    """Return a folder with the files that a reader of the page has."""
    for name in ("tls.key", "tls.crt"):
        shutil.copy(certificate / name, tmp_path)
    for name in ("keys.toml", "key"):
        (tmp_path / name).write_text("x")
    return tmp_path


def run(page, folder):
    """Run the commands of a page; return them, and what they have made."""
    cluster = Cluster(folder)
    made = calls(page, folder)
    for call in made:
        cluster.run(call)
    return made, cluster


@needs_kubectl
@each_page
def test_each_command_makes_what_it_says(name, folder):
    made, _ = run(PAGES[name], folder)
    programs = {*re.findall(r"\b(?:kubectl|helm)\b", "".join(BLOCK.findall(PAGES[name])))}
    assert programs <= {call["program"] for call in made}
    assert len(made) > 10


WRONG = [
    ("helm upgrade --install a deploy/helm/rope-service --namespace n --set imag.tag=1", "imag"),
    ("helm upgrade --install a deploy/helm/rope-service --namespace n --waits", "--waits"),
    ("helm rollback b --namespace n", "not installed"),
    ("kubectl create secret generic s --from-file=missing.toml", "missing.toml"),
    ("kubectl get pods --selectors a=b", "--selectors"),
    ("kubectl get pods --selector a=b", "a=b"),
    ("kubectl rollout status deployment/nothing", "deployment/nothing"),
    ("kubectl get service nothing", "nothing"),
    ("kubectl apply -f deploy/kserve/serving.yaml", "serving.yaml"),
    ("false", "false"),
]


@needs_kubectl
@pytest.mark.parametrize(("command", "expected"), WRONG)
def test_a_wrong_command_is_found(command, expected, folder):
    page = f"```sh\nkubectl create namespace n\n{command}\n```\n"
    with pytest.raises(Exception, match=re.escape(expected)):
        run(page, folder)


@each_page
def test_a_page_has_all_chapters(name):
    chapters = re.findall(r"^## (.+)$", PAGES[name], re.MULTILINE)
    assert set(chapters) >= CHAPTERS


@each_page
def test_each_block_is_run_somewhere(name):
    blocks = re.compile(r"^```(\w*)\n.*?^```$", re.MULTILINE | re.DOTALL)
    assert {*blocks.findall(PAGES[name])} <= {"sh", "bash", "python", "text"}
    rest = blocks.sub("", PAGES[name])
    assert "```" not in rest
    assert not re.search(r"^(    |\t)\S", rest, re.MULTILINE)
