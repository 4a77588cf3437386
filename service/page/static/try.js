// The Try view: a request from a form, its answer, and programs that send the same request.
import { html, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { ask, integer, language, setState, start, state, t } from "./page.js";
import { Fields, Programs, Prose, programOf } from "./try-parts.js";
import { LIMITS, bodyOf, bytes, firstForm, readRoutes, requestOf } from "./try-request.js";

const GROUPS = { tensors: "t.", params: "p." };

// The form of a route as it stands in the address, or the first form of the route.
function readForm(route, values) {
  if (!values.own) return firstForm(route);
  const form = { tensors: {}, params: {} };
  for (const [group, prefix] of Object.entries(GROUPS)) {
    for (const [name, text] of Object.entries(values)) {
      if (name.startsWith(prefix)) form[group][name.slice(prefix.length)] = text;
    }
  }
  return form;
}

function writeForm(form) {
  const changes = Object.fromEntries(Object.keys(state.value).filter((name) => /^[tp]\./.test(name)).map((name) => [name, null]));
  for (const [group, prefix] of Object.entries(GROUPS)) {
    for (const [name, text] of Object.entries(form[group])) changes[prefix + name] = text;
  }
  return { ...changes, own: 1 };
}

function View() {
  const [routes, setRoutes] = useState(null);
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    ask("openapi.json").then((document) => setRoutes(readRoutes(document))).catch((error) => setFailed(error.message));
  }, []);
  if (failed !== null) return html`<h1>${t("try.title")}</h1><p class="note" role="alert">${t("try.no_document")} ${failed}</p>`;
  return routes ? html`<${Request} routes=${routes} />` : html`<p class="lede">${t("try.loading")}</p>`;
}

function Request({ routes }) {
  const values = state.value;
  const route = routes.find(({ key }) => key === values.route) ?? routes.find(({ key }) => key === "POST /v1/rotate") ?? routes[0];
  const [file, setFile] = useState(null);
  const [problem, setProblem] = useState(null);
  const [outcome, setOutcome] = useState(null);
  const [limits, setLimits] = useState(null);
  const session = useRef("");
  const sending = useRef(null);
  const body = values.body === "safetensors" ? "safetensors" : "json";
  const answer = values.answer === "safetensors" ? "safetensors" : "json";
  const { form, request } = useMemo(() => {
    const read = readForm(route, values);
    if (route.path.includes("{id}") && !values.own) read.params = { ...read.params, id: session.current };
    return { form: read, request: requestOf(route, read, { file, body, answer }) };
  }, [route, values, file, body, answer]);

  const edit = (group, name, text) => {
    const next = { tensors: { ...form.tensors }, params: { ...form.params } };
    if (text === null) delete next[group][name];
    else next[group][name] = text;
    setState(writeForm(next));
  };
  const chooseRoute = (key) => {
    const cleared = Object.fromEntries(Object.keys(values).filter((name) => /^([tp]\.|own$)/.test(name)).map((name) => [name, null]));
    sending.current?.abort();
    setState({ ...cleared, route: key }, { push: true });
    setOutcome(null);
  };
  const open = async (dropped) => {
    const { readHeader } = await import("./safetensors.js");
    try {
      const read = { ...(await readHeader(dropped)), name: dropped.name };
      const next = { tensors: { ...form.tensors }, params: form.params };
      const names = route.fields.filter(({ kind }) => kind === "tensor").map(({ name }) => name);
      const found = names.filter((name) => read.tensors.some((tensor) => tensor.name === name));
      const first = names.find((name) => name in next.tensors) ?? names[0];
      for (const name of found) next.tensors[name] = `file ${name}`;
      const others = read.tensors.filter(({ name }) => !names.includes(name));
      const numbers = others.filter(({ dtype }) => /^(B?F16|F32)$/.test(dtype));
      const own = numbers.find(({ name }) => name.endsWith(`.${first}`) || name === "before") ?? numbers[0] ?? (found.length ? undefined : others[0]);
      if (own && first && !found.includes(first)) next.tensors[first] = `file ${own.name}`;
      setFile(read);
      setProblem(null);
      setState(writeForm(next));
    } catch (error) {
      if (!error.code) throw error;
      setProblem(t("try.bad_file", { name: dropped.name, why: t(`safetensors.${error.code}`, error.values) }));
    }
  };
  useDrop(open);

  const limit = request.form === "json" ? "max_json_bytes" : "max_body_bytes";
  const bound = limits?.[limit] ?? LIMITS[limit];
  const over = request.bytes > bound;
  useEffect(() => {
    if (!limits && (request.bytes > 1e6 || values.own)) ask("version").then((version) => setLimits(version.limits ?? {})).catch(() => {});
  }, [request.bytes]);

  const send = async (event) => {
    event.preventDefault();
    if (over || Object.keys(request.errors).length) {
      document.querySelector("#over, [aria-invalid=true]")?.focus();
      return;
    }
    sending.current?.abort();
    const own = (sending.current = new AbortController());
    setOutcome({ waiting: true });
    const { exchange } = await import("./try-answer.js");
    const got = await exchange(request, await bodyOf(request), own.signal);
    if (own.signal.aborted) return;
    if (got.document?.id && got.status === 201) session.current = got.document.id;
    setOutcome(got);
    requestAnimationFrame(() => document.getElementById("answer-title").scrollIntoView({ block: "nearest" }));
  };
  const marked = outcome?.problem && { name: namedField(route, outcome.problem.detail), detail: outcome.problem.detail };
  const program = programOf(request);

  return html`<h1>${t("try.title")}</h1><p class="lede">${sentence(request)}</p>
  <div class="layout try">
    <form class="panel" onSubmit=${send} novalidate>
      <div class="field"><label for="route">${t("try.route")}</label><select id="route" value=${route.key} onChange=${(event) => chooseRoute(event.target.value)}>
        ${[...new Set(routes.map(({ tag }) => tag))].map((tag) => html`<optgroup label=${tag} key=${tag}>${routes.filter((each) => each.tag === tag).map(({ key, summary }) => html`<option key=${key} value=${key} selected=${key === route.key} title=${summary}>${key}</option>`)}</optgroup>`)}</select>
        <p class="hint" lang="en"><b>${route.summary}.</b> ${route.description !== route.summary && html`<${Prose} text=${route.description} />`}</p></div>
      <${Fields} request=${request} form=${form} file=${file} edit=${edit} marked=${marked} />
      ${route.fields.some(({ kind }) => kind === "tensor") && html`<div class="field"><label class="filebox"><input type="file" class="sr" accept=".safetensors" onChange=${(event) => event.target.files[0] && open(event.target.files[0])} /><span class="button">${t("try.choose_file")}</span> <span>${t("try.drop")}</span></label>
        ${file && html`<p class="hint">${t("try.file_has", { name: file.name, count: integer(file.tensors.length) })}</p>`}
        ${problem && html`<p class="wrong-text" role="alert">${problem}</p>`}</div>`}
      <div class="send">
        ${route.takesSafetensors && html`<${Choice} name="body" value=${request.form} />`}${route.givesSafetensors && html`<${Choice} name="answer" value=${request.accept} />`}
        <button class="primary" aria-disabled=${over}>${t("try.send")}</button></div>
      ${over && html`<p class="note" id="over" role="alert" tabindex="-1">${t("try.over", { bytes: bytes(request.bytes), limit: bytes(bound) })}
        ${request.form === "json" && request.route.takesSafetensors && html`<button type="button" onClick=${() => setState({ body: "safetensors" })}>${t("try.use_safetensors")}</button>`}</p>`}
    </form>
    <div><${Programs} program=${program} request=${request} /><${Outcome} outcome=${outcome} route=${route} /></div>
  </div>`;
}

function Choice({ name, value }) {
  return html`<div role="group" aria-labelledby=${`c-${name}`}><span class="label" id=${`c-${name}`}>${t(`try.${name}`)}</span><div class="seg">${["json", "safetensors"].map((each) => html`<button type="button" aria-pressed=${each === value} onClick=${() => setState({ [name]: each })}>${each}</button>`)}</div></div>`;
}

function Outcome({ outcome, route }) {
  const [module, setModule] = useState(null);
  useEffect(() => {
    if (outcome && !module) import("./try-answer.js").then(setModule);
  }, [outcome]);
  return html`<section class="fig answer" aria-labelledby="answer-title"><h2 id="answer-title">${t("try.answer_title")}</h2>
    <div aria-live="polite">${!outcome ? html`<p class="cap">${t("try.no_answer_yet")}</p>` : outcome.waiting ? html`<p class="cap">${t("try.waiting")}</p>` : module && html`<${module.Answer} outcome=${outcome} route=${route} />`}</div></section>`;
}

// What will be sent, in a sentence.
function sentence({ method, path, tensors, bytes: size, form, hasBody }) {
  const where = `${method} /${path.split("?")[0]}`;
  if (!hasBody) return t("try.sentence_get", { where });
  const named = tensors.map(({ name, count }) => t("try.sentence_part", { name, count: integer(count) }));
  const parts = language === "zh" ? named.join(t("try.comma")) : new Intl.ListFormat(language).format(named);
  return t(tensors.length ? "try.sentence" : "try.sentence_plain", { parts, where, size: bytes(size), form: form === "json" ? "JSON" : "safetensors" });
}

// The field that the words of a refusal name first.
function namedField(route, detail = "") {
  const place = (name) => detail.search(new RegExp(`(^|[^\\w])${name}([^\\w]|$)`));
  const named = detail.split("; this route has")[0];
  return route.fields.map(({ name }) => name).filter((name) => place(name) >= 0 && place(name) < named.length).sort((a, b) => place(a) - place(b) || b.length - a.length)[0];
}

function useDrop(open) {
  const latest = useRef(open);
  latest.current = open;
  useEffect(() => {
    const hold = (event) => event.preventDefault();
    const drop = (event) => {
      event.preventDefault();
      const [dropped] = event.dataTransfer.files;
      if (dropped) latest.current(dropped);
    };
    addEventListener("dragover", hold);
    addEventListener("drop", drop);
    return () => (removeEventListener("dragover", hold), removeEventListener("drop", drop));
  }, []);
}

start(View);
