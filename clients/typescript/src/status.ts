/** From gRPC statuses, and from the error of a run, to errors of this package. */

import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

import {
  CALL_ERRORS,
  ConnectionLost,
  DeadlineExceeded,
  MidstreamClientError,
  RUN_FAILURES,
  RunFailed,
} from "./errors.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
  type ErrorInfo,
} from "./gen/google/rpc/error_details_pb.js";
import type { Run } from "./gen/midstream/v1/run_pb.js";

const DOMAIN = "midstream.v1";

/** Statuses that an HTTP answer without a gRPC status stands for, and that do not mean a broken connection. */
const DEFINITE = new Set([Code.DeadlineExceeded, Code.Unauthenticated, Code.PermissionDenied, Code.Unimplemented]);

/** The typed error of a call that failed. */
export function errorOfCall(failure: unknown): MidstreamClientError {
  if (failure instanceof MidstreamClientError) return failure;
  const error = ConnectError.from(failure);
  const info = error.findDetails(ErrorInfoSchema).find((each) => each.domain === DOMAIN);
  // Connect reports a broken connection as CANCELED, ABORTED, INTERNAL or INVALID_ARGUMENT, whatever broke in it.
  if (!error.metadata.has("grpc-status") && !DEFINITE.has(error.code)) {
    return new ConnectionLost(error.rawMessage, { code: Code.Unavailable, cause: error });
  }
  return new (classOf(error.code, info))(error.rawMessage, {
    reason: info?.reason,
    code: error.code,
    metadata: info?.metadata,
    fieldViolations: error.findDetails(BadRequestSchema)[0]?.fieldViolations.map(({ field, description }) => ({
      field,
      description,
    })),
    retryAfterMs: delayOf(error.findDetails(RetryInfoSchema)[0]),
    cause: error,
  });
}

/** The typed error of a run that FAILED. */
export function errorOfRun(run: Run): RunFailed {
  const info = detailOf(run, ErrorInfoSchema, (each) => each.domain === DOMAIN);
  return new (RUN_FAILURES.get(info?.reason ?? "") ?? RunFailed)(run, {
    reason: info?.reason,
    code: run.error?.code,
    metadata: info?.metadata,
    retryAfterMs: delayOf(detailOf(run, RetryInfoSchema)),
  });
}

function classOf(code: Code, info: ErrorInfo | undefined): typeof MidstreamClientError {
  if (info) return CALL_ERRORS.get(info.reason) ?? MidstreamClientError;
  if (code === Code.Unavailable) return ConnectionLost;
  return code === Code.DeadlineExceeded ? DeadlineExceeded : MidstreamClientError;
}

function detailOf<Desc extends DescMessage>(
  run: Run,
  schema: Desc,
  isOurs: (detail: MessageShape<Desc>) => boolean = () => true,
): MessageShape<Desc> | undefined {
  for (const detail of run.error?.details ?? []) {
    const unpacked = anyUnpack(detail, schema);
    if (unpacked && isOurs(unpacked)) return unpacked;
  }
  return undefined;
}

function delayOf(retry: MessageShape<typeof RetryInfoSchema> | undefined): number | undefined {
  return retry?.retryDelay && durationMs(retry.retryDelay);
}
