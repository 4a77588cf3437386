// All codes of the service with their cause and remedy, from the texts of the page.
import { html, useEffect, useRef } from "./vendor.js";
import { t, textKeys } from "./page.js";
import { SERVICE_CODES } from "./live-data.js";

/** A list of all codes; the wanted one is marked and scrolled to. */
export function Codes({ wanted }) {
  const codes = textKeys("refusal.").map((key) => key.slice("refusal.".length));
  const marked = useRef(null);
  useEffect(() => marked.current?.scrollIntoView({ block: "nearest" }), [wanted]);
  const isService = (code) => SERVICE_CODES.has(code);
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t("live.codes")}>${["service", "client"].map((side) => html`<h3>${t(`live.codes.${side}`)}</h3><dl>${codes.filter((code) => isService(code) === (side === "service")).map((code) => html`
    <div class=${code === wanted ? "wanted" : ""} ref=${code === wanted ? marked : null}><dt><code>${code}</code></dt><dd>${t(`refusal.${code}`)}</dd></div>`)}</dl>`)}</div>`;
}
