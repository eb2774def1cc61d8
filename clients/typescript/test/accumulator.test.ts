/** The message so far: what it takes, and what it refuses. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { MessageAccumulator } from "../src/accumulator.js";
import { StreamGapError } from "../src/errors.js";
import { MessageDeltaSchema, MessageSchema, PartState } from "../src/proto.js";

function delta(init: MessageInitShape<typeof MessageDeltaSchema>) {
  return create(MessageDeltaSchema, init);
}

function text(value: string, offset = 0, partIndex = 0) {
  return delta({ partIndex, offset: BigInt(offset), payload: { case: "text", value } });
}

test("deltas add up to the message, part by part", () => {
  const message = new MessageAccumulator();

  message.fold(text("Grüße"));
  message.fold(
    delta({ partIndex: 1, payload: { case: "toolCall", value: { id: "1", name: "f", arguments: '{"a"' } } }),
  );
  message.fold(text("!", 7));
  message.fold(delta({ partIndex: 1, offset: 4n, payload: { case: "toolCall", value: { arguments: ":1}" } } }));
  message.fold(delta({ partIndex: 1, offset: 7n, partEnd: PartState.COMPLETE }));
  message.fold(delta({ partIndex: 2, payload: { case: "blob", value: { mimeType: "a/b", data: Buffer.from([1]) } } }));
  message.fold(delta({ partIndex: 2, offset: 1n, payload: { case: "blob", value: { data: Buffer.from([2]) } } }));

  const [first, second, third] = message.message().parts;
  assert.equal(message.text, "Grüße!");
  assert.equal(first?.part.case === "text" && first.part.value.text, "Grüße!");
  assert.equal(first?.state, PartState.OPEN);
  assert.deepEqual(second?.part.case === "toolCall" && { ...second.part.value, $typeName: undefined }, {
    $typeName: undefined,
    id: "1",
    name: "f",
    arguments: '{"a":1}',
  });
  assert.equal(second?.state, PartState.COMPLETE);
  assert.deepEqual(third?.part.case === "blob" && third.part.value.source, {
    case: "data",
    value: new Uint8Array([1, 2]),
  });
});

test("an offset is counted in UTF-8 bytes", () => {
  const message = new MessageAccumulator();
  message.fold(text("é"));

  assert.throws(() => message.fold(text("x", 1)), StreamGapError);
  assert.equal(message.fold(text("x", 2)).payload.value, "x");
});

test("of a delta that overlaps only the new end is taken", () => {
  const message = new MessageAccumulator();
  message.fold(text("né"));

  const rest = message.fold(text("néé", 0), true);

  assert.deepEqual([rest.payload.value, rest.offset], ["é", 3n]);
  assert.equal(message.text, "néé");
});

test("an overlap inside a character is a gap", () => {
  const message = new MessageAccumulator();
  message.fold(text("aa"));

  assert.throws(() => message.fold(text("aé", 0), true), StreamGapError);
});

test("what does not continue its part is a gap, and adds nothing", () => {
  const message = new MessageAccumulator();
  message.fold(text("ab"));

  assert.throws(() => message.fold(text("d", 3)), StreamGapError);
  assert.throws(() => message.fold(text("b", 1)), StreamGapError);
  assert.throws(() => message.fold(text("x", 0, 2)), StreamGapError);
  assert.throws(() => message.fold(delta({ offset: 2n, payload: { case: "refusal", value: "no" } })), StreamGapError);
  assert.equal(message.text, "ab");
});

test("a delta of an unknown kind makes its part opaque", () => {
  const message = new MessageAccumulator();
  const unknown = delta({});
  unknown.$unknown = [{ no: 100, wireType: 2, data: Buffer.from("\u0001x") }];
  message.fold(unknown);

  assert.equal(message.fold(text("later", 40)).payload.value, "later");
});

test("the final message must be what was received", () => {
  const message = new MessageAccumulator();
  message.fold(text("ab"));
  const final = (value: string, more = 0) =>
    create(MessageSchema, {
      parts: [value, ...Array<string>(more).fill("x")].map((each) => ({
        part: { case: "text", value: { text: each } } as const,
      })),
    });

  message.checkFinal(final("ab"));
  assert.throws(() => message.checkFinal(final("abc")), StreamGapError);
  assert.throws(() => message.checkFinal(final("xb")), StreamGapError);
  assert.throws(() => message.checkFinal(final("ab", 1)), StreamGapError);
  assert.throws(() => message.checkFinal(undefined), StreamGapError);
});

test("a reader that begins midway knows only the ends of parts", () => {
  const message = new MessageAccumulator(true);
  message.fold(text("cd", 2, 1));

  const parts = ["ab", "abcd"].map((each) => ({ part: { case: "text", value: { text: each } } as const }));
  message.checkFinal(create(MessageSchema, { parts }));
  assert.throws(() => message.fold(text("x", 5, 1)), StreamGapError);
});

test("the end of a blob is compared, too", () => {
  const message = new MessageAccumulator();
  message.fold(delta({ payload: { case: "blob", value: { data: Buffer.from([1, 2]) } } }));
  const final = (...bytes: number[]) => {
    const source = { case: "data", value: new Uint8Array(bytes) } as const;
    return create(MessageSchema, { parts: [{ part: { case: "blob", value: { source } } }] });
  };

  message.checkFinal(final(1, 2));
  assert.throws(() => message.checkFinal(final(1, 3)), StreamGapError);
});

test("a snapshot gives what is new in it, as a delta per part", () => {
  const message = new MessageAccumulator();
  message.fold(text("ab"));
  const parts = ["abc", "d"].map((each) => ({
    state: PartState.OPEN,
    part: { case: "text", value: { text: each } } as const,
  }));

  const deltas = message.foldSnapshot(create(MessageSchema, { parts }));

  assert.deepEqual(
    deltas.map(({ payload }) => payload.value),
    ["c", "d"],
  );
  assert.equal(message.text, "abcd");
});
