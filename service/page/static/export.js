// Saves figures and their tables as files; loaded when the first one is saved.

/** Save a figure as "svg", "png" or "csv". */
export function save(form, { body, title, name, rows }) {
  const content = form === "csv" ? rows().map((row) => row.join(",")).join("\n") : body.querySelector("svg").outerHTML;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content]));
  link.download = `${name}.${form}`;
  link.title = title;
  link.click();
  URL.revokeObjectURL(link.href);
}
