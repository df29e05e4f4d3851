// `node:assert`: as `node:assert/strict`, but for `equal` and `notEqual`, and without comparing deeply by `==`.
import { loose } from "node:assert/strict";
export const {
  AssertionError, CallTracker, ok, fail, equal, notEqual, deepEqual, notDeepEqual, match, doesNotMatch, throws, rejects,
  doesNotThrow, doesNotReject, ifError, strictEqual, notStrictEqual, deepStrictEqual, notDeepStrictEqual, partialDeepStrictEqual,
  strict,
} = loose;
export default loose;
