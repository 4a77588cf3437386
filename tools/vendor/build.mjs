// Builds service/page/static/vendor.js from the packages of package-lock.json, writes the licences of
// what is in it, and its SHA-256. Run it by `make vendor`.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { buildSync } from "esbuild";

const STATIC = new URL("../../service/page/static/", import.meta.url);
const LICENCES = "vendor-licences.txt";

const options = { entryPoints: ["entry.js"], bundle: true, minify: true, format: "esm", legalComments: "none", write: false };
const { metafile } = buildSync({ ...options, metafile: true });
const folders = new Set(
  Object.keys(metafile.inputs).map((path) => path.match(/^node_modules\/(@[^/]+\/)?[^/]+/)?.[0]).filter(Boolean),
);
const packages = [...folders].sort().map((folder) => {
  const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  return { name, version, license, text: readFileSync(`${folder}/${file}`, "utf8").trim() };
});

const names = packages.map(({ name, version }) => `${name} ${version}`).join(", ");
const banner = { js: `/* Made by make vendor from ${names}. Licences: ${LICENCES} */` };
const [{ contents }] = buildSync({ ...options, banner }).outputFiles;
writeFileSync(new URL("vendor.js", STATIC), contents);
const sections = packages.map(({ name, version, license, text }) => `${name} ${version} (${license})\n\n${text}\n`);
writeFileSync(new URL(LICENCES, STATIC), `Licences of what is in vendor.js\n\n${sections.join(`\n${"-".repeat(80)}\n\n`)}`);
const digest = createHash("sha256").update(contents).digest("hex");
writeFileSync(new URL("vendor.js.sha256", STATIC), `${digest}  vendor.js\n`);
