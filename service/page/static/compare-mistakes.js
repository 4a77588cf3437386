// The mistakes that explain numbers, best first: what the code does, and what to change where.
import { html, useEffect, useState } from "./vendor.js";
import { significant, t } from "./page.js";
import { mistakeName } from "./compare-verdict.js";

/** The explanations of an answer of /v1/diagnose. */
export function Explanations({ answer }) {
  const [pages, setPages] = useState({});
  useEffect(() => {
    fetch("mistakes.json").then((response) => response.json()).then(setPages, () => {});
  }, []);
  if (!answer.explanations.length) return null;
  return html`<ol class="explanations">${answer.explanations.map((each, index) => html`<${Explanation} each=${each} pages=${pages} isFirst=${index === 0} />`)}</ol>`;
}

function Explanation({ each, pages, isFirst }) {
  return html`<li><div class="head"><h3>${each.mistakes.map((mistake) => html`<span>${mistakeName(mistake)} <code>${mistake.code}</code></span>`)}</h3>
      <span class="residual">${t("diagnose.residual.short")} <b>${significant(each.relative_error, 2)}</b></span></div>
    ${each.mistakes.map(({ code, text }) => html`<div class="one"><p lang="en">${text}</p>${pages[code] && html`<${Page} page=${pages[code]} isOpen=${isFirst} />`}</div>`)}</li>`;
}

/** Remedies by framework, and what the documentation says of a mistake. */
function Page({ page, isOpen }) {
  return html`<details open=${isOpen}><summary>${t("diagnose.remedy")}</summary><dl class="remedies" lang="en">${Object.entries(page.remedies).map(([name, text]) => html`<div><dt>${name}</dt><dd>${code(text)}</dd></div>`)}</dl></details>
    <details><summary>${t("diagnose.more")}</summary><div><p><b>${t("diagnose.looks")}</b> ${code(page.looks)}</p><p><b>${t("diagnose.why")}</b> ${code(page.why)}</p>
      <p><b>${t("diagnose.sources")}</b> ${page.sources.map(([text, address]) => (address ? html`<a href=${address} rel="noreferrer">${text}</a>` : text))}</p></div></details>`;
}

/** Show what stands between backticks as code. */
function code(text) {
  return text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));
}
