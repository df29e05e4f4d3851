// TextEncoder and TextDecoder for UTF-8 (https://encoding.spec.whatwg.org).
//
// The engine's own C functions do the work: `atob` makes a string with one character for each byte, and
// `decodeURIComponent(escape(…))` reads such a string as UTF-8. Only malformed input is read byte by byte.
(function (host, internals) {
  "use strict";
  const { tag, exec, charCodeAt, slice, toWellFormed, toLowerCase, encodeURIComponent, decodeURIComponent, escape, unescape,
    atob, btoa, toBase64, fromBase64, fromCharCode, setBytes, hasOwn, apply, join, bufferOf, offsetOf, lengthOf, bytesOf,
    TypeError, RangeError, Uint8Array } = internals.base;

  internals.makers.text = () => {
    const PIECE_BYTES = 65536; // bounds the memory that decoding needs beside its result to some ten times this
    const NOT_ASCII = /[^\x00-\x7f]/;
    const EDGE_BLANKS = /^[\t\n\f\r ]*([^\t\n\f\r ]*)[\t\n\f\r ]*$/;
    const LABELS = { __proto__: null, "utf-8": 1, utf8: 1, "unicode-1-1-utf-8": 1, unicode11utf8: 1,
      unicode20utf8: 1, "x-unicode20utf8": 1 };
    const part = (bytes, from, to) => new Uint8Array(bufferOf(bytes), offsetOf(bytes) + from, to - from);

    const encode = text => {
      text = toWellFormed(text);
      if (text.length <= PIECE_BYTES) return encodePiece(text);
      const pieces = [];
      let size = 0;
      for (let from = 0; from < text.length;) {
        let to = from + PIECE_BYTES;
        if (to < text.length && charCodeAt(text, to - 1) >> 10 === 0x36) to--; // not within a surrogate pair
        const piece = encodePiece(slice(text, from, to));
        pieces[pieces.length] = piece;
        size += lengthOf(piece);
        from = to;
      }
      const bytes = new Uint8Array(size);
      for (let i = 0, at = 0; i < pieces.length; i++) {
        setBytes(bytes, pieces[i], at);
        at += lengthOf(pieces[i]);
      }
      return bytes;
    };
    const encodePiece = text =>
      fromBase64(btoa(exec(NOT_ASCII, text) === null ? text : unescape(encodeURIComponent(text))));

    // How many bytes at the end of `bytes` begin a character whose rest is still to come.
    const unfinished = (bytes, end) => {
      for (let back = 1; back <= 3 && back <= end; back++) {
        const byte = bytes[end - back];
        if (byte < 0x80) return 0;
        if (byte >= 0xc0) return isBeginning(bytes, end - back, back) ? back : 0;
      }
      return 0;
    };
    // Whether the `have` bytes at `at` begin a character and do not complete it.
    const isBeginning = (bytes, at, have) => {
      const lead = bytes[at];
      if (lead < 0xc2 || lead > 0xf4 || have >= (lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4)) return false;
      return have < 2 || bytes[at + 1] >= lowest(lead) && bytes[at + 1] <= highest(lead);
    };
    const lowest = lead => lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const highest = lead => lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;

    // The text of malformed UTF-8: one U+FFFD for each longest piece that could have begun a character.
    const repaired = bytes => {
      const pieces = [], length = lengthOf(bytes);
      let units = [];
      for (let i = 0; i < length;) {
        const lead = bytes[i++];
        let point = lead;
        if (lead >= 0x80) {
          let more = lead < 0xc2 || lead > 0xf4 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
          point = more === 0 ? -1 : lead & (0x3f >> more);
          for (let low = lowest(lead), high = highest(lead); more > 0; more--, low = 0x80, high = 0xbf) {
            const byte = bytes[i];
            if (!(byte >= low && byte <= high)) { point = -1; break }
            point = point << 6 | byte & 0x3f;
            i++;
          }
        }
        if (point > 0xffff) {
          units[units.length] = 0xd800 | (point - 0x10000) >> 10;
          point = 0xdc00 | point & 0x3ff;
        }
        units[units.length] = point < 0 ? 0xfffd : point;
        if (units.length >= 4000) { pieces[pieces.length] = apply(fromCharCode, null, units); units = [] }
      }
      pieces[pieces.length] = apply(fromCharCode, null, units);
      return join(pieces, "");
    };

    const decodePiece = (bytes, fatal) => {
      const characters = atob(toBase64(bytes)); // one for each byte
      if (exec(NOT_ASCII, characters) === null) return characters;
      try {
        return decodeURIComponent(escape(characters));
      } catch (error) {
        if (error?.name !== "URIError") throw error; // out of memory
        if (fatal) throw new TypeError("the data is not UTF-8");
        return repaired(bytes);
      }
    };
    const decode = (bytes, fatal) => {
      const pieces = [], length = lengthOf(bytes);
      if (length <= PIECE_BYTES) return decodePiece(bytes, fatal);
      for (let from = 0; from < length;) {
        let to = from + PIECE_BYTES;
        if (to < length) to -= unfinished(bytes, to); else to = length;
        pieces[pieces.length] = decodePiece(part(bytes, from, to), fatal);
        from = to;
      }
      return join(pieces, "");
    };

    class TextEncoder {
      get encoding() { return "utf-8" }

      encode(input = "") { return encode(`${input}`) }

      encodeInto(source, destination) {
        const text = toWellFormed(`${source}`), room = lengthOf(destination);
        let read = 0, written = 0;
        while (read < text.length) {
          const unit = charCodeAt(text, read), units = unit >> 10 === 0x36 ? 2 : 1;
          const size = units === 2 ? 4 : unit < 0x80 ? 1 : unit < 0x800 ? 2 : 3;
          if (written + size > room) break;
          written += size;
          read += units;
        }
        setBytes(destination, encode(slice(text, 0, read)));
        return { read, written };
      }
    }

    class TextDecoder {
      #fatal; #ignoreBom; #rest = null; #begun = false;

      constructor(label = "utf-8", options = undefined) {
        const name = toLowerCase(exec(EDGE_BLANKS, `${label}`)?.[1] ?? "");
        if (!hasOwn(LABELS, name)) {
          throw new RangeError(`TextDecoder here knows "utf-8" only: bundle a package for other encodings`);
        }
        this.#fatal = !!options?.fatal;
        this.#ignoreBom = !!options?.ignoreBOM;
      }

      get encoding() { return "utf-8" }
      get fatal() { return this.#fatal }
      get ignoreBOM() { return this.#ignoreBom }

      decode(input = undefined, options = undefined) {
        let bytes = input === undefined ? new Uint8Array(0) : bytesOf(input);
        if (this.#rest !== null) {
          const kept = lengthOf(this.#rest), whole = new Uint8Array(kept + lengthOf(bytes));
          setBytes(whole, this.#rest);
          setBytes(whole, bytes, kept);
          bytes = whole;
        }
        const length = lengthOf(bytes), goesOn = !!options?.stream, begun = this.#begun;
        const rest = goesOn ? unfinished(bytes, length) : 0, end = length - rest;
        this.#rest = rest === 0 ? null : new Uint8Array(part(bytes, end, length));
        this.#begun = goesOn && (begun || end > 0);
        const from = !begun && !this.#ignoreBom && end >= 3 && bytes[0] === 0xef && bytes[1] === 0xbb
          && bytes[2] === 0xbf ? 3 : 0;
        try {
          return decode(part(bytes, from, end), this.#fatal);
        } catch (error) {
          this.#rest = null;
          this.#begun = false;
          throw error;
        }
      }
    }

    tag(TextEncoder, "TextEncoder");
    tag(TextDecoder, "TextDecoder");
    return { TextEncoder, TextDecoder, encode, decode };
  };
})
