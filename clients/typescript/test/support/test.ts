/** `test` of node:test, with a limit of its own: Node 20 limits whole files, and does not say which test it was. */

import { test as unlimited, type TestContext } from "node:test";

const LIMIT_MS = 25_000;

export type { TestContext };

export function test(name: string, body: (context: TestContext) => void | Promise<void>): void {
  void unlimited(name, { timeout: LIMIT_MS }, body);
}
