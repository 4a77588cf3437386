// The field for the API key; loaded when a call of the service needs one.
import { html, render, useEffect, useRef } from "./vendor.js";
import { apiKey, keyWanted, setKey, t } from "./page.js";

/** Show the field below the header of the page. */
export function show() {
  if (document.getElementById("key")) return;
  const place = document.createElement("section");
  place.id = "key";
  place.setAttribute("aria-label", t("key.label"));
  document.querySelector("header.top").after(place);
  render(html`<${Key} />`, place);
}

function Key() {
  const field = useRef(null);
  const wish = keyWanted.value;
  useEffect(() => {
    if (wish) field.current.focus();
  }, [wish]);
  if (!wish) {
    const forget = html`<button type="button" class="quiet" onClick=${() => setKey(null)}>${t("key.forget")}</button>`;
    return apiKey.value && html`<p class="key-used">${t("key.used")} ${forget}</p>`;
  }
  const use = (event) => {
    event.preventDefault();
    const key = field.current.value.trim();
    if (!key) return;
    field.current.value = "";
    if (key === apiKey.value) setKey(null);
    setKey(key);
  };
  return html`<form class="key-form" onSubmit=${use}>
    <label for="key-field">${t(`key.${wish}`)}</label>
    <div class="row"><input id="key-field" ref=${field} type="password" autocomplete="off" spellcheck="false" aria-describedby="key-note" aria-invalid=${wish === "refused"} required />
    <button type="submit" class="primary">${t("key.use")}</button></div>
    <p id="key-note" class="cap">${t("key.note")}</p>
  </form>`;
}
