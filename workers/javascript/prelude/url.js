// URL and URLSearchParams (https://url.spec.whatwg.org), made when one of them is first used.
//
// A URL is a record of the standard's parts. `path` is one string: "" for no segments, "/a/b" for two; segments hold no
// slash, so both forms say the same. The standard's state machine is written as one function for each stretch of the
// input: the functions look for the stretch's end and pass on the rest. They return null where the standard says failure.
(function (host, internals) {
  "use strict";
  const { define, tag, uncurry, apply, iterator, keys, exec, charCodeAt, fromCharCode, fromCodePoint,
    codePointAt, indexOf, lastIndexOf, slice, toLowerCase, toWellFormed, normalize, join, sort, stringify,
    encodeURIComponent, decodeURIComponent, parseInt, itemsOf, lengthOf, bufferOf, platformObjects, RegExp, TypeError,
    Uint8Array } = internals.base;

  internals.makers.url = () => {
    const PORTS = { __proto__: null, http: 80, https: 443, ws: 80, wss: 443, ftp: 21, file: 0 }; // the special schemes

    // ------------------------------------------------------------ percent-encoding
    // Each set has one bit in `sets[character]`, and a pattern that finds out at the engine's speed that a text has
    // nothing to encode, as most have.
    const CONTROL = 1, FRAGMENT = 2, QUERY = 4, SPECIAL_QUERY = 8, PATH = 16, USER = 32, FORM = 64;
    const sets = new Uint8Array(128);
    const mark = (characters, bits) => {
      for (let i = 0; i < characters.length; i++) sets[charCodeAt(characters, i)] |= bits;
    };
    for (let i = 0; i < 128; i++) {
      const isName = i >= 48 && i <= 57 || i >= 65 && i <= 90 || i >= 97 && i <= 122;
      sets[i] = i < 32 || i === 127 ? 127 : isName ? 0 : FORM;
    }
    mark(' "<>', FRAGMENT | QUERY | SPECIAL_QUERY | PATH | USER);
    mark("`", FRAGMENT | PATH | USER);
    mark("#", QUERY | SPECIAL_QUERY | PATH | USER);
    mark("'", SPECIAL_QUERY);
    mark("?^{}", PATH | USER);
    mark("/:;=@[\\]|", USER);
    for (let i = 0; i < 4; i++) sets[charCodeAt("*-._", i)] &= ~FORM;
    const FOUND = {
      __proto__: null,
      [CONTROL]: /[^\x20-\x7e]/,
      [FRAGMENT]: /[^!#-;=?-_a-~]/,
      [QUERY]: /[^!$-;=?-~]/,
      [SPECIAL_QUERY]: /[^!$-&(-;=?-~]/,
      [PATH]: /[^!$-;=@-\]_a-z|~]/,
      [USER]: /[^!$-.0-9A-Z_a-z~]/,
      [FORM]: /[^*\-.0-9A-Z_a-z]/,
    };
    const HEX = "0123456789ABCDEF";

    // `text`, which is well-formed, with every character of the set `bits` and every one beyond ASCII as %XX.
    const encode = (text, bits) => {
      const found = exec(FOUND[bits], text);
      if (found === null) return text;
      let made = "", from = 0;
      for (let i = found.index; i < text.length; i++) {
        const code = charCodeAt(text, i);
        if (code < 128) {
          if ((sets[code] & bits) === 0) continue;
          made += slice(text, from, i) + (code === 32 && bits === FORM ? "+" : "%" + HEX[code >> 4] + HEX[code & 15]);
        } else {
          const begin = i;
          while (i + 1 < text.length && charCodeAt(text, i + 1) >= 128) i++;
          made += slice(text, from, begin) + encodeURIComponent(slice(text, begin, i + 1));
        }
        from = i + 1;
      }
      return made + slice(text, from);
    };

    const replaced = (text, old, by) => {
      let at = indexOf(text, old);
      if (at < 0) return text;
      let made = "", from = 0;
      for (; at >= 0; at = indexOf(text, old, from)) {
        made += slice(text, from, at) + by;
        from = at + old.length;
      }
      return made + slice(text, from);
    };

    // `text` with %XX decoded and read as UTF-8; what is not UTF-8 becomes U+FFFD.
    const percentDecoded = text => {
      if (indexOf(text, "%") < 0) return text;
      try {
        return decodeURIComponent(text);
      } catch (error) {
        if (error?.name !== "URIError") throw error; // out of memory
      }
      const bytes = internals.parts.text().encode(text);
      let to = 0;
      for (let i = 0, length = lengthOf(bytes); i < length; i++) {
        let byte = bytes[i];
        if (byte === 37 && i + 2 < length) {
          const high = digit(bytes[i + 1]), low = digit(bytes[i + 2]);
          if (high < 16 && low < 16) { byte = high << 4 | low; i += 2 }
        }
        bytes[to++] = byte;
      }
      return internals.parts.text().decode(new Uint8Array(bufferOf(bytes), 0, to), false);
    };
    // The value of a hexadecimal digit given as its code; 16 if it is none.
    const digit = code => code >= 48 && code <= 57 ? code - 48 : code >= 97 && code <= 102 ? code - 87
      : code >= 65 && code <= 70 ? code - 55 : 16;

    // ------------------------------------------------------------ hosts
    const PLAIN_HOST = /^[a-z0-9_.-]+$/;
    const FORBIDDEN_HOST = /[\x00\t\n\r #\/:<>?@[\\\]^|]/;
    const FORBIDDEN_DOMAIN = /[\x00-\x20#%\/:<>?@[\\\]^|\x7f]/;
    const ENDS_IN_NUMBER = /(?:^|\.)(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?$/;
    const NUMBER = /^(?:0[xX]([0-9A-Fa-f]*)|0([0-7]+)|(0|[1-9][0-9]*))$/;

    const parseHost = (text, special) => {
      if (text[0] === "[") {
        const pieces = text[text.length - 1] === "]" ? parseIpv6(slice(text, 1, -1)) : null;
        return pieces === null ? null : "[" + ipv6Text(pieces) + "]";
      }
      if (!special) return exec(FORBIDDEN_HOST, text) === null ? encode(text, CONTROL) : null;
      if (exec(PLAIN_HOST, text) === null || indexOf(text, "xn--") >= 0) {
        text = toAscii(percentDecoded(text));
        if (text === null || text === "" || exec(FORBIDDEN_DOMAIN, text) !== null) return null;
      }
      return exec(ENDS_IN_NUMBER, text) === null ? text : parseIpv4(text);
    };

    const parseIpv4 = text => {
      if (text[text.length - 1] === ".") text = slice(text, 0, -1);
      let address = 0;
      for (let count = 1, from = 0; ; count++) {
        const dot = indexOf(text, ".", from), found = exec(NUMBER, slice(text, from, dot < 0 ? text.length : dot));
        if (found === null) return null;
        const number = found[1] !== undefined ? found[1] === "" ? 0 : parseInt(found[1], 16)
          : found[2] !== undefined ? parseInt(found[2], 8) : +found[3];
        if (dot < 0) {
          if (number >= 256 ** (5 - count)) return null;
          address += number;
          return `${address >>> 24}.${address >>> 16 & 255}.${address >>> 8 & 255}.${address & 255}`;
        }
        if (count === 4 || number > 255) return null;
        address += number * 256 ** (4 - count);
        from = dot + 1;
      }
    };

    // The eight pieces of an address, or null.
    const parseIpv6 = text => {
      const pieces = [0, 0, 0, 0, 0, 0, 0, 0];
      let piece = 0, compress = -1, at = 0;
      const code = () => at < text.length ? charCodeAt(text, at) : -1;
      if (code() === 58) {
        if (charCodeAt(text, 1) !== 58) return null;
        at = 2;
        compress = ++piece;
      }
      while (at < text.length) {
        if (piece === 8) return null;
        if (code() === 58) {
          if (compress >= 0) return null;
          at++;
          compress = ++piece;
          continue;
        }
        let value = 0, length = 0;
        for (; length < 4 && at < text.length && digit(code()) < 16; length++) value = value * 16 + digit(code()), at++;
        if (code() === 46) {
          if (length === 0 || piece > 6) return null;
          const four = exec(/^([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)$/, slice(text, at - length));
          if (four === null) return null;
          for (let i = 1; i <= 4; i++) {
            if (four[i].length > 1 && four[i][0] === "0" || +four[i] > 255) return null;
            pieces[piece] = pieces[piece] * 256 + +four[i];
            if (i % 2 === 0) piece++;
          }
          break;
        }
        if (code() === 58) {
          if (++at === text.length) return null;
        } else if (at < text.length) return null;
        pieces[piece++] = value;
      }
      if (compress >= 0) {
        for (let swaps = piece - compress, i = 7; i !== 0 && swaps > 0; i--, swaps--) {
          const moved = pieces[compress + swaps - 1];
          pieces[compress + swaps - 1] = pieces[i];
          pieces[i] = moved;
        }
      } else if (piece !== 8) return null;
      return pieces;
    };

    const ipv6Text = pieces => {
      let begin = -1, longest = 1;
      for (let i = 0; i < 8; i++) {
        let length = 0;
        while (i + length < 8 && pieces[i + length] === 0) length++;
        if (length > longest) { begin = i; longest = length }
        if (length > 0) i += length - 1;
      }
      let text = "";
      for (let i = 0; i < 8; i++) {
        if (i === begin) {
          text += i === 0 ? "::" : ":";
          i += longest - 1;
          continue;
        }
        let hex = "", rest = pieces[i];
        do { hex = HEX[rest & 15] + hex; rest >>= 4 } while (rest > 0);
        text += toLowerCase(hex) + (i < 7 ? ":" : "");
      }
      return text;
    };

    // ------------------------------------------------------------ names of other alphabets (RFC 3492, UTS 46)
    // The mapping is NFKC and lower case, which is UTS 46 but for some dozens of characters; the check of a label knows
    // the classes that are never allowed. The engine has no table of directions, so the rule on mixed directions goes by
    // script.
    const NOT_ASCII = /[^\x00-\x7f]/;
    let unicode;
    const patterns = () => unicode ??= { // made when first needed: the engine compiles Unicode classes to large tables
      ignored: new RegExp("[\\u00ad\\u034f\\u180b-\\u180d\\u180f\\u200b\\u2060\\u2064\\ufe00-\\ufe0f\\ufeff]"
        + "|[\\u{e0100}-\\u{e01ef}]", "u"),
      mark: new RegExp("^\\p{M}", "u"),
      refused: new RegExp("[\\p{Cc}\\p{Cn}\\p{Co}\\p{Cs}\\p{Z}\\u200e\\u200f\\u202a-\\u202e\\u2061-\\u206f\\u115f\\u1160"
        + "\\ufff9-\\ufffd\\u{e0001}-\\u{e007f}]|(?<!\\p{Mn})[\\u200c\\u200d]", "u"),
      leftward: new RegExp("[\\p{Script=Hebrew}\\p{Script=Arabic}\\p{Script=Syriac}\\p{Script=Thaana}\\p{Script=Nko}]", "u"),
      mixed: new RegExp("^[^\\p{Script=Hebrew}\\p{Script=Arabic}\\p{Script=Syriac}\\p{Script=Thaana}\\p{Script=Nko}]"
        + "|[\\p{Script=Latin}\\p{Script=Greek}\\p{Script=Cyrillic}\\p{Script=Han}]", "u"),
    };

    const mapped = text => {
      for (let found; (found = exec(patterns().ignored, text)) !== null;) text = replaced(text, found[0], "");
      text = normalize(toLowerCase(replaced(normalize(text, "NFKC"), "\u03a3", "\u03c3")), "NFC");
      return replaced(text, "\u3002", ".");
    };

    const isLabel = label => {
      const { mark, refused, leftward, mixed } = patterns();
      return exec(mark, label) === null && exec(refused, label) === null
        && (exec(leftward, label) === null || exec(mixed, label) === null);
    };

    const toAscii = domain => {
      if (exec(NOT_ASCII, domain) === null) {
        domain = toLowerCase(domain);
        if (indexOf(domain, "xn--") < 0) return domain;
      } else {
        domain = mapped(domain);
      }
      let made = "";
      for (let from = 0; from <= domain.length;) {
        let to = indexOf(domain, ".", from);
        if (to < 0) to = domain.length;
        let label = slice(domain, from, to);
        if (slice(label, 0, 4) === "xn--") {
          const decoded = punycodeDecoded(slice(label, 4));
          if (decoded === null || exec(NOT_ASCII, decoded) === null || decoded !== mapped(decoded)
            || !isLabel(decoded)) return null;
        } else if (exec(NOT_ASCII, label) !== null) {
          if (!isLabel(label)) return null;
          label = "xn--" + punycode(label);
        }
        made += (from === 0 ? "" : ".") + label;
        from = to + 1;
      }
      return made;
    };

    const adapted = (delta, count, first) => {
      delta = first ? delta / 700 >>> 0 : delta >>> 1;
      delta += delta / count >>> 0;
      let k = 0;
      for (; delta > 455; k += 36) delta = delta / 35 >>> 0;
      return k + (36 * delta / (delta + 38) >>> 0);
    };
    const threshold = (k, bias) => k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias;
    const DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789";
    const LABEL_UNITS_MAX = 1024; // the coding is quadratic in a label's length; DNS takes 63 bytes

    const punycode = label => {
      const points = [];
      let made = "";
      for (let i = 0; i < label.length; i++) {
        const point = codePointAt(label, i);
        points[points.length] = point;
        if (point < 128) made += label[i];
        if (point > 0xffff) i++;
      }
      let done = made.length, next = 128, delta = 0, bias = 72;
      const basic = done;
      if (basic > 0) made += "-";
      while (done < points.length) {
        let least = 0x7fffffff;
        for (let i = 0; i < points.length; i++) if (points[i] >= next && points[i] < least) least = points[i];
        delta += (least - next) * (done + 1);
        next = least;
        for (let i = 0; i < points.length; i++) {
          if (points[i] < next) delta++;
          if (points[i] !== next) continue;
          let rest = delta;
          for (let k = 36; ; k += 36) {
            const t = threshold(k, bias);
            if (rest < t) break;
            made += DIGITS[t + (rest - t) % (36 - t)];
            rest = (rest - t) / (36 - t) >>> 0;
          }
          made += DIGITS[rest];
          bias = adapted(delta, done + 1, done === basic);
          delta = 0;
          done++;
        }
        delta++;
        next++;
      }
      return made;
    };

    const punycodeDecoded = text => {
      if (text.length > LABEL_UNITS_MAX) return null;
      const hyphen = lastIndexOf(text, "-");
      let points = [], at = hyphen < 0 ? 0 : hyphen + 1, next = 128, index = 0, bias = 72;
      for (let i = 0; i < hyphen; i++) points[i] = charCodeAt(text, i);
      while (at < text.length) {
        const old = index;
        for (let weight = 1, k = 36; ; k += 36) {
          const value = at < text.length ? indexOf(DIGITS, text[at++]) : -1;
          if (value < 0) return null;
          index += value * weight;
          const t = threshold(k, bias);
          if (value < t) break;
          weight *= 36 - t;
          if (index > 0x7fffffff || weight > 0x7fffffff) return null;
        }
        const count = points.length + 1;
        bias = adapted(index - old, count, old === 0);
        next += index / count >>> 0;
        index %= count;
        if (next > 0x10ffff || next >= 0xd800 && next <= 0xdfff) return null;
        const grown = [];
        for (let i = 0; i < count; i++) grown[i] = i < index ? points[i] : i === index ? next : points[i - 1];
        points = grown;
        index++;
      }
      let made = "";
      for (let i = 0; i < points.length; i++) made += fromCodePoint(points[i]);
      return made;
    };

    // ------------------------------------------------------------ the parser
    const EDGES = /[\t\n\r]|^[\x00-\x20]|[\x00-\x20]$/;
    const LINE_ENDS = /[\t\n\r]/;
    const SCHEME = /^([A-Za-z][A-Za-z0-9+.-]*):/;
    const STOP = /[\/?#]/, SPECIAL_STOP = /[\/?#\\]/, PATH_STOP = /[?#]/;
    const DOTS = /(?:^|\/)(?:\.|%2e)/i, SPECIAL_DOTS = /(?:^|\/)(?:\.|%2e)|\\/i;
    const DOT_SEGMENTS = { __proto__: null, ".": 1, "%2e": 1, "..": 2, ".%2e": 2, "%2e.": 2, "%2e%2e": 2 };
    const DRIVE = /^[A-Za-z][:|]$/, BEGINS_WITH_DRIVE = /^[A-Za-z][:|](?:[\/\\?#]|$)/;
    const DRIVE_PATH = /^\/[A-Za-z]:$/, BEGINS_WITH_DRIVE_PATH = /^\/[A-Za-z]:(?=\/|$)/;

    const isSpecial = url => PORTS[url.scheme] !== undefined;
    const isSlash = (character, special) => character === "/" || special && character === "\\";
    const empty = scheme => ({ scheme, username: "", password: "", host: null, port: null, path: "", isOpaque: false,
      query: null, fragment: null });

    const withoutLineEnds = text => {
      if (exec(LINE_ENDS, text) === null) return text;
      return replaced(replaced(replaced(text, "\t", ""), "\n", ""), "\r", "");
    };
    const trimmed = text => {
      let from = 0, to = text.length;
      while (from < to && charCodeAt(text, from) <= 32) from++;
      while (to > from && charCodeAt(text, to - 1) <= 32) to--;
      return withoutLineEnds(slice(text, from, to));
    };

    // The record of `text`, which is well-formed, relative to the record `base` (or null); null if there is none.
    const parse = (text, base) => {
      if (exec(EDGES, text) !== null) text = trimmed(text);
      const found = exec(SCHEME, text);
      if (found === null) {
        if (base === null) return null;
        if (base.isOpaque) {
          if (text[0] !== "#") return null;
          return { ...base, fragment: encode(slice(text, 1), FRAGMENT) };
        }
        return base.scheme === "file" ? afterFile(text, base) : relative(text, base);
      }
      const scheme = toLowerCase(found[1]), rest = slice(text, found[0].length), url = empty(scheme);
      if (scheme === "file") return afterFile(rest, base);
      if (isSpecial(url)) {
        const isAbsolute = rest[0] === "/" && rest[1] === "/";
        if (base !== null && base.scheme === scheme && !isAbsolute) return relative(rest, base);
        return authority(url, withoutSlashes(rest));
      }
      if (rest[0] === "/") return rest[1] === "/" ? authority(url, slice(rest, 2)) : path(url, slice(rest, 1));
      return opaquePath(url, rest);
    };

    const withoutSlashes = text => {
      let from = 0;
      while (isSlash(text[from], true)) from++;
      return slice(text, from);
    };

    const relative = (text, base) => {
      const url = empty(base.scheme), special = isSpecial(url);
      if (isSlash(text[0], special)) {
        if (special && isSlash(text[1], true)) return authority(url, withoutSlashes(text));
        if (text[1] === "/") return authority(url, slice(text, 2));
      }
      url.username = base.username;
      url.password = base.password;
      url.host = base.host;
      url.port = base.port;
      return isSlash(text[0], special) ? path(url, slice(text, 1)) : relativePath(url, text, base, false);
    };

    // The path, query and fragment of `text`, which begins with no slash, relative to those of `base`.
    const relativePath = (url, text, base, drops) => {
      const first = text[0];
      url.path = base.path;
      if (first === undefined || first === "?" || first === "#") {
        url.query = base.query;
        return tail(url, text);
      }
      if (drops) url.path = ""; else shorten(url);
      return path(url, text);
    };

    const afterFile = (text, base) => {
      const url = empty("file"), old = base !== null && base.scheme === "file" ? base : null;
      url.host = "";
      if (isSlash(text[0], true)) {
        if (isSlash(text[1], true)) return fileHost(url, slice(text, 2));
        text = slice(text, 1);
        if (old !== null) {
          url.host = old.host;
          const drive = exec(BEGINS_WITH_DRIVE, text) === null ? exec(BEGINS_WITH_DRIVE_PATH, old.path) : null;
          if (drive !== null) url.path = drive[0];
        }
        return path(url, text);
      }
      if (old === null) return path(url, text);
      url.host = old.host;
      return relativePath(url, text, old, exec(BEGINS_WITH_DRIVE, text) !== null);
    };

    const fileHost = (url, text) => {
      const stop = exec(SPECIAL_STOP, text), end = stop === null ? text.length : stop.index;
      const name = slice(text, 0, end);
      if (exec(DRIVE, name) !== null) return path(url, text);
      return setFileHost(url, name) ? pathStart(url, slice(text, end)) : null;
    };
    const setFileHost = (url, name) => {
      const host = name === "" ? "" : parseHost(name, true);
      if (host === null) return false;
      url.host = host === "localhost" ? "" : host;
      return true;
    };

    const authority = (url, text) => {
      const special = isSpecial(url), stop = exec(special ? SPECIAL_STOP : STOP, text);
      const end = stop === null ? text.length : stop.index, at = lastIndexOf(text, "@", end - 1);
      let from = 0;
      if (at >= 0 && at < end) {
        if (at + 1 === end) return null;
        const user = slice(text, 0, at), colon = indexOf(user, ":");
        url.username = encode(colon < 0 ? user : slice(user, 0, colon), USER);
        if (colon >= 0) url.password = encode(slice(user, colon + 1), USER);
        from = at + 1;
      }
      const name = slice(text, from, end), colon = portColon(name);
      if (colon === 0 || special && name === "") return null;
      url.host = parseHost(colon < 0 ? name : slice(name, 0, colon), special);
      if (url.host === null) return null;
      if (colon > 0 && !setPort(url, slice(name, colon + 1))) return null;
      return pathStart(url, slice(text, end));
    };

    // Where the colon before the port is, the first one outside of brackets; -1 if there is none.
    const portColon = name => {
      if (indexOf(name, "[") < 0) return indexOf(name, ":");
      for (let i = 0, inside = false; i < name.length; i++) {
        if (name[i] === "[") inside = true;
        else if (name[i] === "]") inside = false;
        else if (name[i] === ":" && !inside) return i;
      }
      return -1;
    };

    const setPort = (url, digits) => {
      if (exec(/^[0-9]*$/, digits) === null || +digits > 65535) return false;
      url.port = digits === "" || +digits === PORTS[url.scheme] ? null : +digits;
      return true;
    };

    // `text` is empty or begins with a slash, "?" or "#".
    const pathStart = (url, text) => {
      const special = isSpecial(url);
      if (isSlash(text[0], special)) return path(url, slice(text, 1));
      return special ? path(url, text) : tail(url, text);
    };

    const path = (url, text) => {
      const stop = exec(PATH_STOP, text);
      if (stop === null) {
        addSegments(url, text);
        return url;
      }
      addSegments(url, slice(text, 0, stop.index));
      return tail(url, slice(text, stop.index));
    };

    const opaquePath = (url, text) => {
      const stop = exec(PATH_STOP, text), end = stop === null ? text.length : stop.index;
      url.isOpaque = true;
      let name = slice(text, 0, end);
      if (stop !== null && name[end - 1] === " ") name = slice(name, 0, -1) + "%20"; // or a setter would make it vanish
      url.path = encode(name, CONTROL);
      return tail(url, slice(text, end));
    };

    // `text` is empty or begins with "?" or "#".
    const tail = (url, text) => {
      const hash = indexOf(text, "#");
      if (hash >= 0) {
        url.fragment = encode(slice(text, hash + 1), FRAGMENT);
        text = slice(text, 0, hash);
      }
      if (text !== "") url.query = encode(slice(text, 1), isSpecial(url) ? SPECIAL_QUERY : QUERY);
      return url;
    };

    const addSegments = (url, text) => {
      const special = isSpecial(url), isFile = url.scheme === "file";
      if (!isFile && exec(special ? SPECIAL_DOTS : DOTS, text) === null) {
        url.path += "/" + encode(text, PATH);
        return;
      }
      for (let from = 0, isLast = false; !isLast; ) {
        let to = from;
        while (to < text.length && !isSlash(text[to], special)) to++;
        isLast = to === text.length;
        let segment = slice(text, from, to);
        const dots = segment.length <= 6 ? DOT_SEGMENTS[toLowerCase(segment)] : undefined;
        if (dots === 2) shorten(url);
        if (dots === undefined) {
          if (isFile && url.path === "" && exec(DRIVE, segment) !== null) segment = segment[0] + ":";
          url.path += "/" + encode(segment, PATH);
        } else if (isLast) url.path += "/";
        from = to + 1;
      }
    };

    const shorten = url => {
      if (url.scheme === "file" && exec(DRIVE_PATH, url.path) !== null) return;
      const slash = lastIndexOf(url.path, "/");
      url.path = slash < 0 ? "" : slice(url.path, 0, slash);
    };

    const hostAndPort = url => url.port === null ? url.host : `${url.host}:${url.port}`;

    const serialized = url => {
      let text = url.scheme + ":";
      if (url.host !== null) {
        text += "//";
        if (url.username !== "" || url.password !== "") {
          text += url.username + (url.password === "" ? "" : ":" + url.password) + "@";
        }
        text += hostAndPort(url);
      } else if (!url.isOpaque && url.path[0] === "/" && url.path[1] === "/") text += "/.";
      text += url.path;
      if (url.query !== null) text += "?" + url.query;
      return url.fragment === null ? text : text + "#" + url.fragment;
    };

    const origin = url => {
      if (url.scheme === "blob") {
        const inner = url.isOpaque ? parse(url.path, null) : null;
        return inner !== null && (inner.scheme === "http" || inner.scheme === "https") ? origin(inner) : "null";
      }
      return isSpecial(url) && url.scheme !== "file" ? `${url.scheme}://${hostAndPort(url)}` : "null";
    };

    const cannotHaveUser = url => url.host === null || url.host === "" || url.scheme === "file";
    const asText = value => toWellFormed(`${value}`);

    // ------------------------------------------------------------ URLSearchParams
    // A list [name, value, name, value, …].
    const formParsed = text => {
      const list = [];
      for (let from = 0; from < text.length;) {
        let to = indexOf(text, "&", from);
        if (to < 0) to = text.length;
        if (to > from) {
          const pair = slice(text, from, to), equals = indexOf(pair, "=");
          list[list.length] = formDecoded(equals < 0 ? pair : slice(pair, 0, equals));
          list[list.length] = equals < 0 ? "" : formDecoded(slice(pair, equals + 1));
        }
        from = to + 1;
      }
      return list;
    };
    const formDecoded = text => percentDecoded(replaced(text, "+", " "));

    const formText = list => {
      let text = "";
      for (let i = 0; i < list.length; i += 2) {
        text += `${i === 0 ? "" : "&"}${encode(list[i], FORM)}=${encode(list[i + 1], FORM)}`;
      }
      return text;
    };

    const ITERATORS = uncurry(function* (list, kind) { // 0: pairs, 1: names, 2: values
      for (let i = 0; i < list().length; i += 2) {
        yield kind === 0 ? [list()[i], list()[i + 1]] : list()[i + kind - 1];
      }
    });
    let paramsOf, setList, isParams, paramsText, hasUser, hrefOf;

    class URLSearchParams {
      #list = []; #changed = null;

      static {
        paramsOf = (text, changed) => {
          const params = new URLSearchParams();
          params.#list = formParsed(text);
          params.#changed = changed;
          return params;
        };
        setList = (params, text) => { params.#list = formParsed(text) };
        isParams = value => #list in value;
        paramsText = params => formText(params.#list);
        platformObjects[platformObjects.length] = isParams;
      }

      constructor(init = "") {
        if (init === null || typeof init !== "object" && typeof init !== "function") {
          const text = asText(init);
          this.#list = formParsed(text[0] === "?" ? slice(text, 1) : text);
        } else if (#list in init) {
          this.#list = formParsed(formText(init.#list));
        } else if (init[iterator] !== undefined && init[iterator] !== null) {
          const pairs = itemsOf(init);
          for (let i = 0; i < pairs.length; i++) {
            const pair = itemsOf(pairs[i]);
            if (pair.length !== 2) throw new TypeError("each pair of URLSearchParams has a name and a value");
            this.append(pair[0], pair[1]);
          }
        } else {
          const names = keys(init);
          for (let i = 0; i < names.length; i++) this.append(names[i], init[names[i]]);
        }
      }

      #change(list) {
        this.#list = list;
        this.#changed?.(formText(list));
      }
      // The list without the pairs of this name (and of this value, if one is given).
      #without(name, value) {
        const kept = [];
        for (let i = 0; i < this.#list.length; i += 2) {
          if (this.#list[i] === name && (value === undefined || this.#list[i + 1] === value)) continue;
          kept[kept.length] = this.#list[i];
          kept[kept.length] = this.#list[i + 1];
        }
        return kept;
      }
      #find(name) {
        for (let i = 0; i < this.#list.length; i += 2) if (this.#list[i] === name) return i;
        return -1;
      }

      get size() { return this.#list.length / 2 }

      append(name, value) {
        name = asText(name);
        value = asText(value);
        const list = this.#list;
        list[list.length] = name;
        list[list.length] = value;
        this.#changed?.(formText(list));
      }

      delete(name, value = undefined) {
        this.#change(this.#without(asText(name), value === undefined ? undefined : asText(value)));
      }

      get(name) {
        const at = this.#find(asText(name));
        return at < 0 ? null : this.#list[at + 1];
      }

      getAll(name) {
        name = asText(name);
        const values = [];
        for (let i = 0; i < this.#list.length; i += 2) {
          if (this.#list[i] === name) values[values.length] = this.#list[i + 1];
        }
        return values;
      }

      has(name, value = undefined) {
        if (value === undefined) return this.#find(asText(name)) >= 0;
        name = asText(name);
        value = asText(value);
        for (let i = 0; i < this.#list.length; i += 2) {
          if (this.#list[i] === name && this.#list[i + 1] === value) return true;
        }
        return false;
      }

      set(name, value) {
        name = asText(name);
        value = asText(value);
        const list = [];
        let isThere = false;
        for (let i = 0; i < this.#list.length; i += 2) {
          const isOne = this.#list[i] === name;
          if (isOne && isThere) continue;
          list[list.length] = this.#list[i];
          list[list.length] = isOne ? value : this.#list[i + 1];
          isThere ||= isOne;
        }
        if (!isThere) {
          list[list.length] = name;
          list[list.length] = value;
        }
        this.#change(list);
      }

      sort() {
        const pairs = [], list = [];
        for (let i = 0; i < this.#list.length; i += 2) pairs[i / 2] = [this.#list[i], this.#list[i + 1]];
        sort(pairs, (a, b) => a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0);
        for (let i = 0; i < pairs.length; i++) {
          list[2 * i] = pairs[i][0];
          list[2 * i + 1] = pairs[i][1];
        }
        this.#change(list);
      }

      forEach(callback, self = undefined) {
        for (let i = 0; i < this.#list.length; i += 2) apply(callback, self, [this.#list[i + 1], this.#list[i], this]);
      }

      entries() { return ITERATORS(undefined, () => this.#list, 0) }
      keys() { return ITERATORS(undefined, () => this.#list, 1) }
      values() { return ITERATORS(undefined, () => this.#list, 2) }
      toString() { return formText(this.#list) }
    }
    define(URLSearchParams.prototype, iterator, URLSearchParams.prototype.entries);
    tag(URLSearchParams, "URLSearchParams");

    // ------------------------------------------------------------ URL
    const invalid = (text, hint) => {
      const error = new TypeError(`Invalid URL: ${stringify(slice(text, 0, 200))}${hint}`);
      define(error, "code", "ERR_INVALID_URL");
      return error;
    };

    class URL {
      #url; #params = null; #href = null;

      static {
        hasUser = url => url.#url.username !== "" || url.#url.password !== "";
        hrefOf = url => url.#href ??= serialized(url.#url);
        platformObjects[platformObjects.length] = value => #url in value;
      }

      static #parsed(input, base) {
        if (base === undefined) return parse(input, null);
        const record = typeof base === "object" && base !== null && #url in base ? base.#url : parse(asText(base), null);
        return record === null ? null : parse(input, record);
      }

      constructor(input, base = undefined) {
        const text = asText(input);
        this.#url = URL.#parsed(text, base);
        if (this.#url === null) {
          const needsBase = base === undefined && exec(SCHEME, trimmed(text)) === null;
          throw invalid(text, needsBase ? ", which has no scheme: give the base as the second argument" : "");
        }
      }

      static canParse(input, base = undefined) { return URL.#parsed(asText(input), base) !== null }

      static parse(input, base = undefined) {
        try {
          return new URL(input, base);
        } catch (error) {
          if (error?.code === "ERR_INVALID_URL") return null;
          throw error;
        }
      }

      get href() { return hrefOf(this) }
      set href(value) {
        const text = asText(value), url = parse(text, null);
        if (url === null) throw invalid(text, "");
        this.#url = url;
        this.#href = null;
        if (this.#params !== null) setList(this.#params, url.query ?? "");
      }

      get origin() { return origin(this.#url) }

      get protocol() { return this.#url.scheme + ":" }
      set protocol(value) {
        const found = exec(SCHEME, withoutLineEnds(asText(value)) + ":"), url = this.#url;
        if (found === null) return;
        const scheme = toLowerCase(found[1]);
        if (PORTS[scheme] === undefined !== (PORTS[url.scheme] === undefined)) return;
        if (scheme === "file" && (url.username !== "" || url.password !== "" || url.port !== null)) return;
        if (url.scheme === "file" && url.host === "") return;
        url.scheme = scheme;
        if (url.port === PORTS[scheme]) url.port = null;
        this.#href = null;
      }

      get username() { return this.#url.username }
      set username(value) {
        if (cannotHaveUser(this.#url)) return;
        this.#url.username = encode(asText(value), USER);
        this.#href = null;
      }

      get password() { return this.#url.password }
      set password(value) {
        if (cannotHaveUser(this.#url)) return;
        this.#url.password = encode(asText(value), USER);
        this.#href = null;
      }

      #setHost(value, withPort) {
        const url = this.#url, special = isSpecial(url);
        if (url.isOpaque) return;
        const text = withoutLineEnds(asText(value)), stop = exec(special ? SPECIAL_STOP : STOP, text);
        const name = stop === null ? text : slice(text, 0, stop.index);
        this.#href = null;
        if (url.scheme === "file") {
          setFileHost(url, name);
          return;
        }
        const colon = portColon(name);
        if (colon === 0 || colon > 0 && !withPort) return;
        if (name === "" && (special || url.username !== "" || url.password !== "" || url.port !== null)) return;
        const host = parseHost(colon < 0 ? name : slice(name, 0, colon), special);
        if (host === null) return;
        url.host = host;
        if (colon > 0) this.#setPort(slice(name, colon + 1));
      }
      #setPort(text) {
        const digits = exec(/^[0-9]+/, text);
        if (digits !== null) setPort(this.#url, digits[0]);
      }

      get host() { return this.#url.host === null ? "" : hostAndPort(this.#url) }
      set host(value) { this.#setHost(value, true) }

      get hostname() { return this.#url.host ?? "" }
      set hostname(value) { this.#setHost(value, false) }

      get port() { return this.#url.port === null ? "" : `${this.#url.port}` }
      set port(value) {
        if (cannotHaveUser(this.#url)) return;
        const text = withoutLineEnds(asText(value));
        if (text === "") this.#url.port = null; else this.#setPort(text);
        this.#href = null;
      }

      get pathname() { return this.#url.path }
      set pathname(value) {
        const url = this.#url, special = isSpecial(url);
        if (url.isOpaque) return;
        const text = withoutLineEnds(asText(value));
        url.path = "";
        if (text !== "" || special) addSegments(url, isSlash(text[0], special) ? slice(text, 1) : text);
        else if (url.host === null) url.path = "/";
        this.#href = null;
      }

      get search() { return this.#url.query === null || this.#url.query === "" ? "" : "?" + this.#url.query }
      set search(value) {
        let text = asText(value);
        if (text[0] === "?") text = slice(text, 1);
        else if (text === "") text = null;
        const url = this.#url;
        url.query = text === null ? null : encode(withoutLineEnds(text), isSpecial(url) ? SPECIAL_QUERY : QUERY);
        this.#href = null;
        if (this.#params !== null) setList(this.#params, text ?? "");
      }

      get searchParams() {
        return this.#params ??= paramsOf(this.#url.query ?? "", text => {
          this.#url.query = text === "" ? null : text;
          this.#href = null;
        });
      }

      get hash() { return this.#url.fragment === null || this.#url.fragment === "" ? "" : "#" + this.#url.fragment }
      set hash(value) {
        const text = asText(value);
        this.#url.fragment = text === "" ? null
          : encode(withoutLineEnds(text[0] === "#" ? slice(text, 1) : text), FRAGMENT);
        this.#href = null;
      }

      toString() { return hrefOf(this) }
      toJSON() { return hrefOf(this) }
    }
    tag(URL, "URL");
    return { URL, URLSearchParams, isParams, paramsText, hasUser, hrefOf };
  };
})
