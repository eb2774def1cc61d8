/** The runner: a configuration on standard input, a line per scenario on standard output. */

import { readFileSync } from "node:fs";

import * as cases from "./cases.js";
import * as losses from "./losses.js";
import { Stage, type Configuration } from "./stage.js";
import * as stops from "./stops.js";

type Case = (stage: Stage) => Promise<void>;

const scenariosFile = new URL("../../scenarios.json", import.meta.url);
const { scenarios } = JSON.parse(readFileSync(scenariosFile, "utf8")) as {
  scenarios: { name: string; seconds: number }[];
};
const known: Record<string, Case> = { ...cases, ...losses, ...stops };

/** What went wrong; empty if nothing did. */
async function outcome(name: string, configuration: Configuration, kind: "client" | "raw"): Promise<string> {
  const run = known[name];
  if (!run) return "there is no such scenario here";
  const seconds = scenarios.find((each) => each.name === name)?.seconds ?? 30;
  const stage = new Stage(configuration, kind);
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not over after ${seconds} s`)), seconds * 1000);
  });
  try {
    await Promise.race([run(stage), limit]);
    return "";
  } catch (error) {
    if (error instanceof Error && error.name !== "Error") process.stderr.write(`${name}: ${error.stack}\n`);
    return String(error).replaceAll("\n", " ").slice(0, 500) || "an empty error";
  } finally {
    clearTimeout(timer);
    stage.close();
  }
}

const configuration = JSON.parse(readFileSync(0, "utf8")) as Configuration;
const kind = process.argv[2] === "raw" ? "raw" : "client";
for (const scenario of configuration.scenarios) {
  const begin = performance.now();
  const detail = await outcome(scenario, configuration, kind);
  const milliseconds = Math.round(performance.now() - begin);
  process.stdout.write(`${JSON.stringify({ scenario, ok: detail === "", detail, milliseconds })}\n`);
}
