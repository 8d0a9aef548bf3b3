// Parses an AsyncAPI document with the official parser. Prints one line per diagnostic and a summary as JSON on the
// last line; exits 1 when the document has an error or a warning.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const SEVERITIES = ["error", "warning", "information", "hint"];

const path = process.argv[2];
const { document, diagnostics } = await new Parser().parse(await readFile(path, "utf8"), { source: path });

for (const { severity, code, message, path: place } of diagnostics) {
  console.log(`${SEVERITIES[severity]} ${code} at ${place.join(".")}: ${message}`);
}
const serious = diagnostics.filter(({ severity }) => severity <= 1);
console.log(
  JSON.stringify({
    version: document?.version() ?? null,
    channels: document?.channels().all().length ?? 0,
    operations: document?.operations().all().length ?? 0,
    messages: document?.components().messages().all().length ?? 0,
    serious: serious.length,
  }),
);
process.exit(document && serious.length === 0 ? 0 : 1);
