"""The Try view: a form from the OpenAPI document, its request, and the answer."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.page.conftest import assert_no_overflow

MARKUP = "<img src=x onerror=alert(1)>"


def send(page: Any) -> Any:
    """Press Send, and wait for the answer."""
    page.click("button.primary")
    page.wait_for_selector(".status")
    return page


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.replace("\u2212", "-").split()]


def own(route: str, **fields: str) -> dict[str, object]:
    """Return the fragment of a whole form: `t_q` is the tensor q, `p_rope` the parameter rope."""
    given = {f"{name[0]}.{name[2:]}": value for name, value in fields.items()}
    return {"route": route, "own": 1, **given}


def drop(page: Any, name: str, content: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(bytes)], name));
            dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }""",
        [name, list(content)],
    )


def header_of(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def test_the_first_request_is_filled_in(open_view, server):
    page = send(open_view("try"))
    assert page.locator(".status b").inner_text() == "200"
    facts = page.locator(".facts").inner_text()
    assert "[1, 16, 8, 128]" in facts
    assert "float32" in facts
    assert "NaN 0" in facts
    assert "compute" in page.locator("svg.timing").get_attribute("aria-label")
    assert "eager" in page.locator(".answer .legend").inner_text()
    assert len(page.locator("svg.heat path").all()) <= 13
    shown = page.evaluate("document.querySelector('main').textContent.length")
    assert shown < 6000, "a tensor is printed whole"
    with page.expect_download() as download:
        page.click("button.save")
    saved = load(download.value.path().read_bytes())["q"]
    with page.expect_request("**/v1/rotate") as sent:
        page.click("button.primary")
    headers = {"content-type": "application/json"}
    again = httpx.post(f"{server.url}/v1/rotate", content=sent.value.post_data, headers=headers)
    answer = again.json()["q"]
    assert saved.ravel().tolist() == np.float32(answer["data"]).tolist()
    assert numbers(page.locator(".first code").inner_text()) == pytest.approx(answer["data"][:8])
    q = np.array(json.loads(sent.value.post_data)["q"]["data"])
    assert abs(q.mean()) < 0.05
    assert abs(q.std() - 1) < 0.05
    assert float(f"{np.linalg.norm(q):.4g}") == 126.7  # a rotation keeps the norm
    assert "norm 126.7" in facts


def test_an_answer_and_a_refusal_are_accessible(open_view, axe):
    page = send(open_view("try", language="zh", color_scheme="dark", width=390))
    axe(page)
    assert_no_overflow(page)
    page.locator("#f-rope").fill("no-such-preset")
    page.click("button.primary")
    page.wait_for_selector(".refusal")
    axe(page)
    assert_no_overflow(page)
    open_view.forgive("status of 422")


def test_budget_of_requests_and_nodes(open_view):
    page = open_view("try")
    page.wait_for_selector("#program pre")
    assert len(open_view.requests) <= 12, open_view.requests
    assert page.evaluate("document.querySelectorAll('*').length") < 1500


def test_keys_alone_send_and_read(open_view):
    page = open_view("try")
    page.focus("#f-rope")
    page.keyboard.press("Enter")
    page.wait_for_selector(".status")
    page.focus("svg.heat")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    heat = page.locator("svg.heat")
    assert heat.get_attribute("aria-valuetext").startswith("q[0, ")
    page.keyboard.press("Escape")
    assert page.locator("svg.heat rect").count() == 0
    page.focus("#tab-curl")
    page.keyboard.press("End")
    page.wait_for_selector("#tab-rust[aria-selected=true]:focus")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tab-curl[aria-selected=true]:focus")


def test_a_new_route_appears_by_itself(open_view, server):
    document = httpx.get(f"{server.url}/openapi.json").json()
    schema = {
        "type": "object",
        "required": ["x", "mode"],
        "properties": {
            "x": {"$ref": "#/components/schemas/Tensor", "description": f"float16: {MARKUP}"},
            "mode": {"enum": ["left", "right"]},
            "turns": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "strict": {"type": "boolean"},
            "extra": {"type": "object"},
        },
    }
    body = {"content": {"application/json": {"schema": schema}}}
    operation = {"tags": [MARKUP], "summary": MARKUP, "requestBody": body, "responses": {}}
    document["paths"]["/v1/twist"] = {"post": operation}

    def before(page):
        page.route("**/openapi.json", lambda route: route.fulfill(json=document))
        page.route("**/v1/twist", lambda route: route.fulfill(json={"twisted": MARKUP}))

    page = open_view("try", before=before)
    page.select_option("#route", "POST /v1/twist")
    page.get_by_role("button", name="+ turns").click()
    page.fill("#f-turns", "3")
    page.get_by_role("button", name="+ strict").click()
    page.get_by_role("button", name="+ extra").click()
    page.fill("#f-extra", '{"a": [1]}')
    with page.expect_request("**/v1/twist") as sent:
        page.click("button.primary")
    given = sent.value.post_data_json
    assert given["x"]["dtype"] == "float16"
    rest = {name: value for name, value in given.items() if name != "x"}
    assert rest == {"mode": "left", "turns": 3, "strict": True, "extra": {"a": [1]}}
    page.get_by_text(MARKUP).first.wait_for()
    assert page.locator("img").count() == 0
    page.fill("#f-extra", "{")
    assert page.locator("#f-extra").get_attribute("aria-invalid") == "true"


def test_the_address_carries_the_form(open_view):
    page = open_view("try")
    page.select_option("#route", "POST /v1/attention")
    page.get_by_role("button", name="+ causal").click()
    page.get_by_role("button", name="Remove rope").click()
    page.locator(".send .seg button", has_text="safetensors").first.click()
    page.click("#tab-go")
    page.reload()
    page.wait_for_selector("#tab-go[aria-selected=true]")
    assert page.input_value("#route") == "POST /v1/attention"
    assert page.input_value("#f-causal") == "true"
    assert page.locator("#f-rope").count() == 0
    page.go_back()
    page.wait_for_function("document.querySelector('#route').value === 'POST /v1/rotate'")


def test_a_refusal_marks_the_field_that_it_names(open_view):
    fragment = own("POST /v1/rotate", t_q="normal float32 2,1,4 0", t_positions="arange int64 3")
    page = send(open_view("try", fragment=fragment))
    assert page.locator(".status b").inner_text() == "422"
    assert page.locator(".refusal code").first.inner_text() == "shape"
    wrong = page.locator(".tensor.wrong")
    assert wrong.locator(".name").inner_text() == "positions"
    detail = page.locator(".refusal p").first.inner_text()
    assert wrong.locator(".wrong-text").inner_text() in detail
    assert page.locator(".refusal a").get_attribute("href") == "live.html#code=shape"
    open_view.forgive("status of 422")


def test_markup_of_a_problem_is_text(open_view):
    problem = {"code": MARKUP, "detail": f"rope {MARKUP}", "title": MARKUP}
    answer = {"status": 422, "json": problem, "headers": {"x-request-id": "a"}}
    page = open_view(
        "try", before=lambda page: page.route("**/v1/rotate", lambda r: r.fulfill(**answer))
    )
    send(page)
    assert MARKUP in page.locator(".refusal").inner_text()
    assert page.locator(".tensor.wrong .name").inner_text() == "rope"
    assert page.locator("img").count() == 0
    open_view.forgive("status of 422")


def test_a_body_over_the_limit_is_not_sent(open_view):
    fragment = own("POST /v1/rotate", t_q="normal float32 1,4096,8,128 0")
    page = open_view("try", fragment=fragment)
    page.get_by_text("the service takes 16").wait_for()
    page.focus("button.primary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "over"
    assert not any(request.endswith("/v1/rotate") for request in open_view.requests)
    page.get_by_role("button", name="Use safetensors").click()
    page.locator("#over").wait_for(state="detached")
    page.fill("input.mono >> nth=0", "1, 999999999999, 8, 128")
    page.keyboard.press("Tab")
    page.wait_for_selector("#over")


def test_the_limits_are_those_of_the_service(open_view):
    version = {"limits": {"max_json_bytes": 50_000, "max_body_bytes": 60_000}}
    page = open_view(
        "try",
        fragment=own("POST /v1/rotate", t_q="normal float32 1,16,8,128 0"),
        before=lambda page: page.route("**/version", lambda route: route.fulfill(json=version)),
    )
    page.get_by_text("the service takes 48.8").wait_for()
    page.get_by_role("button", name="Use safetensors").click()
    page.get_by_text("the service takes 58.6").wait_for()


def test_a_dropped_file(open_view, server):
    rng = np.random.default_rng(0)
    k = rng.standard_normal((1, 4, 2, 8)).astype(np.float16)
    content = save({"model.k": k, "q": k * 2, "positions": np.array([9, 8, 7, 6])})
    fragment = own("POST /v1/rotate", p_rope='{"theta": 10000}') | {"answer": "safetensors"}
    page = open_view("try", fragment=fragment)
    drop(page, "own.safetensors", content)
    page.get_by_text("own.safetensors has 3 tensors").wait_for()
    page.get_by_role("button", name="+ k").click()
    page.select_option("#f-k", "file")
    page.locator("[aria-labelledby=n-k] .parts select").select_option("model.k")
    for form in ("json", "safetensors"):
        page.locator(".send .seg").first.get_by_role("button", name=form).click()
        send(page)
        with page.expect_download() as download:
            page.click("button.save")
        saved = load(download.value.path().read_bytes())
        params = json.dumps({"rope": {"theta": 10000}})
        sent = save({"q": k * 2, "k": k, "positions": np.array([9, 8, 7, 6])}, {"params": params})
        headers = {
            "content-type": "application/x-safetensors",
            "accept": "application/x-safetensors",
        }
        expected = load(
            httpx.post(f"{server.url}/v1/rotate", content=sent, headers=headers).content
        )
        assert saved.keys() == expected.keys()
        for name, array in expected.items():
            assert np.array_equal(saved[name], array)
    page.reload()
    page.get_by_text("drop one anywhere").first.wait_for()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("after", "before"), "before"),
        (("a.bias", "model.q"), "model.q"),
        (("first", "second"), "first"),
    ],
)
def test_a_dropped_file_without_a_q_fills_q(open_view, names, chosen):
    x = np.ones((1, 4, 2, 128), np.float32)
    content = save(dict.fromkeys(names, x) | {"positions": np.arange(4)})
    page = open_view("try")
    drop(page, "own.safetensors", content)
    page.get_by_text("own.safetensors has 3 tensors").wait_for()
    assert page.locator("[aria-labelledby=n-q] .parts select").input_value() == chosen
    send(page)
    assert page.locator(".status b").inner_text() == "200"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff" * 7 + b"\x7f{}", "header"),
        (struct.pack("<Q", 2) + b"[]", "header"),
        (
            header_of({"q": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}) + b"\0" * 16,
            "q",
        ),
        (
            header_of({MARKUP: {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}})
            + b"\0" * 16,
            MARKUP,
        ),
        (b"no", "2"),
    ],
    ids=["length", "list", "offsets", "markup", "short"],
)
def test_a_file_with_a_false_header(open_view, content, why):
    page = open_view("try")
    drop(page, "false.safetensors", content)
    problem = page.locator(".filebox ~ .wrong-text")
    problem.wait_for()
    assert "false.safetensors was not read." in problem.inner_text()
    assert page.locator("img").count() == 0
    send(page)
    assert page.locator(".status b").inner_text() == "200"


def test_a_huge_file_is_not_read_whole(open_view, tmp_path):
    """A file of 6 GiB: only its header and the chosen tensor are read."""
    size = 6 * 2**30
    tensors = {
        "q": {"dtype": "F32", "shape": [1, 2, 1, 8], "data_offsets": [0, 64]},
        "rest": {"dtype": "U8", "shape": [size], "data_offsets": [64, 64 + size]},
    }
    header = header_of(tensors)
    file = tmp_path / "huge.safetensors"
    with file.open("wb") as written:  # without blocks on the disk
        written.write(header)
        written.truncate(len(header) + 64 + size)
    page = open_view("try", fragment=own("POST /v1/rotate", t_q="normal float32 1,2,1,8 0"))
    page.set_input_files("input[type=file]", file)
    page.get_by_text("huge.safetensors has 2 tensors").wait_for()
    send(page)
    assert "[1, 2, 1, 8]" in page.locator(".facts").inner_text()
    assert "norm 0" in page.locator(".facts").inner_text()
    page.locator("[aria-labelledby=n-q] .parts select").select_option("rest")
    page.get_by_text("The service has no such dtype").wait_for()


def test_a_session_from_the_form(open_view):
    page = send(open_view("try", fragment={"route": "POST /v1/sessions"}))
    assert page.locator(".status b").inner_text() == "201"
    page.select_option("#route", "POST /v1/sessions/{id}/step")
    assert page.input_value("#f-id").startswith("r1.")
    send(page)
    assert page.locator(".status b").inner_text() == "200"
    assert "out" in page.locator(".facts").first.inner_text()
    page.select_option("#route", "DELETE /v1/sessions/{id}")
    send(page)
    assert page.locator(".status b").inner_text() == "204"


def test_the_bytes_of_each_dtype(open_view):
    """Numbers become the same bytes as in numpy and ml_dtypes, halves of halves included."""
    import ml_dtypes

    page = open_view("try")
    values = [0.0, -0.0, 1.0, -2.5, 65504.0, 65520.0, 6e-8, 2.9e-8, 6.1e-5, 1 / 3, 1.00390625, 3e38]
    made = page.evaluate(
        """async (values) => {
            const { bytesOf } = await import("./try-request.js");
            const bytes = (dtype, numbers) => [...new Uint8Array(bytesOf(dtype, numbers).buffer)];
            const floats = ["float32", "float16", "bfloat16", "float64"];
            const whole = ["int64", "int32", "bool"];
            return [
                ...floats.map((dtype) => bytes(dtype, values)),
                ...whole.map((dtype) => bytes(dtype, [0, 1, -7, 200])),
            ];
        }""",
        values,
    )
    with np.errstate(over="ignore"):
        floats = [np.array(values).astype(t) for t in ("f4", "f2", ml_dtypes.bfloat16, "f8")]
    whole = [np.array([0, 1, -7, 200]).astype(t) for t in ("i8", "i4", "?")]
    assert [bytes(each) for each in made] == [each.tobytes() for each in floats + whole]
