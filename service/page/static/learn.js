// The learn view.
import { html } from "./vendor.js";
import { start, t } from "./page.js";

function View() {
  return html`<h1>${t("learn.title")}</h1>`;
}

start(View);
