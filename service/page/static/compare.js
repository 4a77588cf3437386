// The compare view.
import { html } from "./vendor.js";
import { start, t } from "./page.js";

function View() {
  return html`<h1>${t("compare.title")}</h1>`;
}

start(View);
