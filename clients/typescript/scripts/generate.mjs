// Makes src/gen/ from the contract in protos/. Google's own protos come from google-proto-files; buf runs offline.
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const contract = join(root, "..", "..", "protos", "midstream", "v1");
const google = join(root, "node_modules", "google-proto-files", "google");
const output = join(root, "src", "gen");
const googleFiles = ["api/annotations.proto", "api/http.proto", "rpc/error_details.proto", "rpc/status.proto"];

const sources = readdirSync(contract).filter((name) => name.endsWith(".proto"));

function isFresh() {
  const made = sources.map((name) => join(output, "midstream", "v1", name.replace(".proto", "_pb.ts")));
  const inputs = [...sources.map((name) => join(contract, name)), fileURLToPath(import.meta.url)];
  const newest = Math.max(...inputs.map((path) => statSync(path).mtimeMs));
  return made.every((path) => existsSync(path) && statSync(path).mtimeMs >= newest);
}

function generate() {
  const stage = mkdtempSync(join(tmpdir(), "midstream-protos-"));
  try {
    for (const name of sources) cpSync(join(contract, name), join(stage, "midstream", "v1", name));
    for (const name of googleFiles) cpSync(join(google, name), join(stage, "google", name));
    rmSync(output, { recursive: true, force: true });
    mkdirSync(output, { recursive: true });
    const plugin = { local: "protoc-gen-es", out: output, opt: ["target=ts", "import_extension=js"] };
    const template = JSON.stringify({ version: "v2", plugins: [plugin] });
    const tools = join(root, "node_modules", ".bin");
    const env = { ...process.env, PATH: `${tools}${delimiter}${process.env.PATH}` };
    execFileSync(join(tools, "buf"), ["generate", stage, "--template", template], { stdio: "inherit", env });
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

if (!isFresh()) generate();
