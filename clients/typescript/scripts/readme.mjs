// Writes each TypeScript example of README.md to a file in test/readme/, for the compiler and for the tests.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const root = new URL("../", import.meta.url);
const output = new URL("test/readme/", root);
const examples = [...readFileSync(new URL("README.md", root), "utf8").matchAll(/^```ts\n(.*?)^```$/gms)];

rmSync(output, { recursive: true, force: true });
mkdirSync(output, { recursive: true });
for (const [index, [, code]] of examples.entries())
  writeFileSync(new URL(`example${index}.ts`, output), `${code}export {};\n`);
