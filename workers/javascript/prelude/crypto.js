// crypto: randomUUID, getRandomValues, subtle.digest. Random bytes and digests are the worker's.
(function (host, internals) {
  "use strict";
  const { tag, define, isView, kindOf, sizeOf, slice, toUpperCase, fromBase64, toBase64, toHex, setBytes, bufferOf, bytesOf,
    Promise, TypeError, DOMException } = internals.base;

  internals.makers.crypto = () => {
    const RANDOM_BYTES_MAX = 65536; // the standard's, and the worker's
    const FLOATS = { __proto__: null, Float16Array: true, Float32Array: true, Float64Array: true };
    const DIGESTS = { __proto__: null, "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512" };
    let mayMake = true;
    const check = () => { if (!mayMake) throw new TypeError("Illegal constructor: use globalThis.crypto") };

    class SubtleCrypto {
      constructor() { check() }

      digest(algorithm, data) {
        return new Promise(resolve => { // what is thrown in here rejects
          const name = toUpperCase(`${typeof algorithm === "object" && algorithm !== null ? algorithm.name : algorithm}`);
          const digest = DIGESTS[name];
          if (digest === undefined) {
            throw new DOMException("crypto.subtle.digest knows SHA-1, SHA-256, SHA-384 and SHA-512", "NotSupportedError");
          }
          resolve(bufferOf(fromBase64(host.digest(digest, toBase64(bytesOf(data))))));
        });
      }
    }
    // The names that code looks for; each says what there is instead.
    const ABSENT = ["encrypt", "decrypt", "sign", "verify", "generateKey", "deriveKey", "deriveBits", "importKey",
      "exportKey", "wrapKey", "unwrapKey"];
    for (let i = 0; i < ABSENT.length; i++) {
      const name = ABSENT[i];
      define(SubtleCrypto.prototype, name, {
        [name]() {
          return new Promise((resolve, reject) => reject(new DOMException(
            `plugins have no crypto.subtle.${name}: bundle a library such as @noble/ciphers or @noble/hashes`,
            "NotSupportedError")));
        },
      }[name]);
    }

    class Crypto {
      #subtle = new SubtleCrypto();

      constructor() { check() }

      get subtle() { return this.#subtle }

      getRandomValues(array) {
        const kind = isView(array) ? kindOf(array) : undefined;
        if (kind === undefined || FLOATS[kind]) {
          throw new DOMException("crypto.getRandomValues fills typed arrays of integers", "TypeMismatchError");
        }
        const size = sizeOf(array);
        if (size > RANDOM_BYTES_MAX) {
          throw new DOMException(`crypto.getRandomValues fills at most ${RANDOM_BYTES_MAX} bytes`, "QuotaExceededError");
        }
        if (size > 0) setBytes(bytesOf(array), fromBase64(host.random(size)));
        return array;
      }

      randomUUID() {
        const bytes = fromBase64(host.random(16));
        bytes[6] = bytes[6] & 0x0f | 0x40; // version 4
        bytes[8] = bytes[8] & 0x3f | 0x80; // the variant of RFC 9562
        const hex = toHex(bytes);
        return `${slice(hex, 0, 8)}-${slice(hex, 8, 12)}-${slice(hex, 12, 16)}-${slice(hex, 16, 20)}-${slice(hex, 20)}`;
      }
    }
    tag(SubtleCrypto, "SubtleCrypto");
    tag(Crypto, "Crypto");
    const crypto = new Crypto();
    mayMake = false;
    return { crypto, Crypto, SubtleCrypto };
  };
})
