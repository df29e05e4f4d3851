<?php
/*
 * A host in PHP 8.1 or newer, without any extension: ten steps against a daemon that serves the example plugins.
 *
 *   apt-get install php-cli
 *   php host.php ipc:///run/apex-exec/host.sock
 *
 * It speaks ZMTP 3.1 (https://rfc.zeromq.org/spec/37/) and MessagePack itself. With `reconnect` as second argument it
 * goes through the end and the return of the daemon as well (see `reconnect`).
 */
declare(strict_types=1);

const USER = '11111111-2222-4333-8444-555555555555';
const DEADLINE_MS = 5000;
const GRACE_MS = 500;  // how much later than its deadline an answer may arrive; after that none will
const LARGEST = 9007199254740991;  // 2^53 - 1: what a result may hold and JavaScript can read
const LARGE_CALLS = 8;
const HEARTBEAT_SECONDS = 1.0;
const SILENCE_SECONDS = 10.0;  // a daemon that answers no heartbeat for this time is gone
const FRAME_BYTES_MAX = 16 * 1048576;
const MORE = 1, LONG = 2, COMMAND = 4, GREETING_BYTES = 64;

/** No daemon is there, or the body is too large: nothing has left, so nothing has run. */
final class NotSent extends Exception {}

/** The connection has ended, or no answer came in time: whether the request has run is not known. */
final class Lost extends Exception {}

// ---------------------------------------------------------------- MessagePack
/** Bytes, which are not text: PHP has one type for both. */
final class Bytes
{
    public function __construct(public readonly string $data) {}
}

/** A list becomes an array, any other array a map. An empty map is `new ArrayObject`; where the protocol wants a map,
 * the daemon takes `[]` for one. A moment is from 1970 on. */
function encode(mixed $value): string
{
    return match (true) {
        $value === null => "\xc0",
        is_bool($value) => $value ? "\xc3" : "\xc2",
        is_int($value) => match (true) {
            $value >= 0 && $value < 128, $value < 0 && $value >= -32 => pack('c', $value),
            default => "\xd3" . pack('J', $value),
        },
        is_float($value) => "\xcb" . pack('E', $value),
        is_string($value) => head(strlen($value), 0xa0, 32, 0xd9, 0xda, 0xdb) . $value,
        $value instanceof Bytes => head(strlen($value->data), 0, 0, 0xc4, 0xc5, 0xc6) . $value->data,
        $value instanceof DateTimeInterface => "\xd7\xff" . pack(
            'J', ((int) $value->format('u') * 1000 << 34) | $value->getTimestamp()),
        is_array($value) && array_is_list($value) =>
            head(count($value), 0x90, 16, 0, 0xdc, 0xdd) . implode('', array_map(encode(...), $value)),
        default => head(count($value), 0x80, 16, 0, 0xde, 0xdf) . implode('', array_map(
            fn ($key, $inner) => encode((string) $key) . encode($inner),
            array_keys((array) $value), array_values((array) $value))),
    };
}

/** The type and the size of a text, a list or a map; a type of 0 is one that does not exist. */
function head(int $size, int $fix, int $fixMax, int $in8, int $in16, int $in32): string
{
    return match (true) {
        $size < $fixMax => chr($fix | $size),
        $size < 0x100 && $in8 !== 0 => pack('CC', $in8, $size),
        $size < 0x10000 => pack('Cn', $in16, $size),
        default => pack('CN', $in32, $size),
    };
}

/** One value; what cannot be read is an UnexpectedValueException. */
final class Decoder
{
    private int $at = 0;

    public function __construct(private readonly string $bytes) {}

    public function value(): mixed
    {
        $type = $this->number('C', 1);
        return match (true) {
            $type < 0x80 => $type,
            $type < 0x90 => $this->map($type & 15),
            $type < 0xa0 => $this->items($type & 15),
            $type < 0xc0 => $this->take($type & 31),
            $type >= 0xe0 => $type - 0x100,
            default => match ($type) {
                0xc0 => null,
                0xc2 => false,
                0xc3 => true,
                0xc4, 0xc5, 0xc6 => new Bytes($this->take($this->unsigned($type - 0xc4))),
                0xca => $this->number('G', 4),
                0xcb => $this->number('E', 8),
                0xcc, 0xcd, 0xce, 0xcf => $this->unsigned($type - 0xcc),
                0xd0 => $this->number('c', 1),
                0xd1 => ($this->number('n', 2) ^ 0x8000) - 0x8000,
                0xd2 => ($this->number('N', 4) ^ 0x80000000) - 0x80000000,
                0xd3 => $this->number('J', 8),
                0xd6, 0xd7 => $this->moment($type === 0xd6 ? 4 : 8, $this->number('c', 1)),
                0xd9, 0xda, 0xdb => $this->take($this->unsigned($type - 0xd9)),
                0xdc, 0xdd => $this->items($this->unsigned($type - 0xdb)),
                0xde, 0xdf => $this->map($this->unsigned($type - 0xdd)),
                default => throw new UnexpectedValueException(sprintf('type 0x%02x is not known here', $type)),
            },
        };
    }

    private function take(int $size): string
    {
        if ($this->at + $size > strlen($this->bytes)) throw new UnexpectedValueException('the message is cut');
        $taken = substr($this->bytes, $this->at, $size);
        $this->at += $size;
        return $taken;
    }

    private function number(string $format, int $size): int|float
    {
        return unpack($format, $this->take($size))[1];
    }

    /** A number of 1, 2, 4 or 8 bytes; `$power` is 0 to 3. PHP's integers have 64 bits and a sign. */
    private function unsigned(int $power): int
    {
        return $this->number('CnNJ'[$power], 1 << $power);
    }

    private function items(int $count): array
    {
        for ($items = []; $count > 0; $count--) $items[] = $this->value();
        return $items;
    }

    private function map(int $count): array|ArrayObject
    {
        if ($count === 0) return new ArrayObject();
        for ($map = []; $count > 0; $count--) {
            $key = $this->value();
            if (!is_string($key)) throw new UnexpectedValueException('a key that is not text');
            $map[$key] = $this->value();
        }
        return $map;
    }

    private function moment(int $size, int $type): DateTimeImmutable
    {
        $number = $this->number($size === 4 ? 'N' : 'J', $size);  // 34 bits of seconds, and above them nanoseconds
        if ($type !== -1) throw new UnexpectedValueException("extension $type is not known here");
        $microseconds = intdiv($number >> 34 & 0x3fffffff, 1000);
        return new DateTimeImmutable(sprintf('@%d.%06d', $number & 0x3ffffffff, $microseconds));
    }
}

// ---------------------------------------------------------------- ZMTP
/** One connection to the daemon's unix socket, as a DEALER or a REQ. It is made when something is to be sent. */
final class Connection
{
    private mixed $stream = null;
    private string $in = '';

    public function __construct(private readonly string $endpoint, private readonly string $type) {}

    /** Writes one message. Throws NotSent if it has not left as a whole: half a message is never served. */
    public function send(string $body): void
    {
        try {
            if ($this->stream !== null) $this->fill(0.0);
        } catch (Lost) {  // the daemon has ended meanwhile, and may be there again
        }
        if ($this->stream === null) $this->open();
        $delimiter = $this->type === 'REQ' ? pack('CC', MORE, 0) : '';
        try {
            $this->write($delimiter . self::frame(0, $body));
        } catch (Lost $lost) {
            throw new NotSent($lost->getMessage());
        }
    }

    /** The body of the next message, its last frame; null after `$seconds`. Throws Lost if the connection ends. */
    public function receive(float $seconds): ?string
    {
        $now = microtime(true);
        for ($due = $now + $seconds, $heard = $asked = $now; $now < $due; $now = microtime(true)) {
            while (($frame = $this->nextFrame()) !== null) {
                [$flags, $body] = $frame;
                if ($flags & COMMAND) $this->commanded($body);
                elseif (!($flags & MORE)) return $body;
            }
            if ($this->fill(min(HEARTBEAT_SECONDS, $due - $now))) $heard = microtime(true);
            elseif ($now - $heard > SILENCE_SECONDS) $this->end('the daemon answers no heartbeat');
            elseif ($now - max($heard, $asked) > HEARTBEAT_SECONDS) {
                $this->write(self::frame(COMMAND, "\4PING\0\0php"));
                $asked = $now;
            }
        }
        return null;
    }

    public function close(): void
    {
        if ($this->stream !== null) fclose($this->stream);
        $this->stream = null;
        $this->in = '';
    }

    private function open(): void
    {
        $address = preg_replace('~^ipc:~', 'unix:', $this->endpoint);
        $this->stream = @stream_socket_client($address, $errno, $why, 1.0) ?: throw new NotSent($why);
        try {
            $this->greet();
        } catch (Lost $lost) {
            throw new NotSent($lost->getMessage());
        }
    }

    /** Both ends send the greeting and READY. Ours has no Identity: the daemon refuses a name that a host chose. */
    private function greet(): void
    {
        $socketType = "\x0bSocket-Type" . pack('N', strlen($this->type)) . $this->type;
        $this->write(str_pad("\xff" . str_repeat("\0", 8) . "\x7f\3\1NULL", GREETING_BYTES, "\0"));
        $this->write(self::frame(COMMAND, "\5READY" . $socketType));
        for ($due = microtime(true) + SILENCE_SECONDS; ($frame = $this->greeted()) === null;)
            if (!$this->fill($due - microtime(true)) && microtime(true) > $due) $this->end('the daemon greets nobody');
        if (!($frame[0] & COMMAND) || !str_contains(strtolower($frame[1]), "socket-type\0\0\0\6router"))
            $this->end('this is not a daemon');
    }

    /** The daemon's READY, once its greeting has arrived before it. */
    private function greeted(): ?array
    {
        if (strlen($this->in) < GREETING_BYTES) return null;
        if ($this->in[0] !== "\xff" || ord($this->in[10]) < 3 || rtrim(substr($this->in, 12, 20), "\0") !== 'NULL')
            $this->end('the peer does not speak ZMTP 3 with NULL');
        return $this->nextFrame(GREETING_BYTES);
    }

    private static function frame(int $flags, string $body): string
    {
        $size = strlen($body);
        return ($size < 256 ? pack('CC', $flags, $size) : pack('CJ', $flags | LONG, $size)) . $body;
    }

    /** Flags and body of the frame at `$at`, which is then taken away with all before it; null if it is not whole. */
    private function nextFrame(int $at = 0): ?array
    {
        $there = strlen($this->in) - $at;
        if ($there < 2) return null;
        $flags = ord($this->in[$at]);
        $head = $flags & LONG ? 9 : 2;
        if ($there < $head) return null;
        $size = $flags & LONG ? unpack('J', $this->in, $at + 1)[1] : ord($this->in[$at + 1]);
        if ($flags & ~(MORE | LONG | COMMAND) || $size < 0 || $size > FRAME_BYTES_MAX) $this->end('not a frame');
        if ($there < $head + $size) return null;
        $body = substr($this->in, $at + $head, $size);
        $this->in = substr($this->in, $at + $head + $size);
        return [$flags, $body];
    }

    private function commanded(string $body): void
    {
        if (str_starts_with($body, "\5ERROR")) $this->end('the daemon refuses the connection');
        if (str_starts_with($body, "\4PING")) $this->write(self::frame(COMMAND, "\4PONG" . substr($body, 7)));
    }

    private function write(string $bytes): void
    {
        for ($at = 0; $at < strlen($bytes); $at += $wrote) {
            $wrote = @fwrite($this->stream, $at === 0 ? $bytes : substr($bytes, $at));
            if ($wrote === false || $wrote === 0) $this->end('the daemon has closed the connection');
        }
    }

    /** Reads what arrives within `$seconds`; whether anything has. */
    private function fill(float $seconds): bool
    {
        $readable = [$this->stream];
        $none = null;
        if (!stream_select($readable, $none, $none, 0, (int) max(0, $seconds * 1e6))) return false;
        $read = @fread($this->stream, 1048576);
        if ($read === false || $read === '') $this->end('the daemon has closed the connection');
        $this->in .= $read;
        return true;
    }

    private function end(string $why): never
    {
        $this->close();
        throw new Lost($why);
    }
}

// ---------------------------------------------------------------- requests and answers
final class Host
{
    public int $bodyBytesMax = 1048576;
    private int $id = 0;
    private array $early = [];  // answers that nobody has waited for yet, by their ids
    private readonly Connection $connection;

    public function __construct(string $endpoint, string $type = 'DEALER')
    {
        $this->connection = new Connection($endpoint, $type);
    }

    /** Sends a request and returns its id. Throws NotSent if it has not left. */
    public function begin(array $request): int
    {
        $body = encode(['id' => ++$this->id] + $request);
        if (strlen($body) > $this->bodyBytesMax) throw new NotSent('the body is too large');
        $this->connection->send($body);
        return $this->id;
    }

    /** The answer to a request. Throws Lost if none will come. */
    public function answerTo(int $id): array
    {
        $due = microtime(true) + (DEADLINE_MS + GRACE_MS) / 1000;
        while (!isset($this->early[$id])) {
            $body = $this->connection->receive($due - microtime(true)) ?? throw new Lost('no answer');
            try {
                $message = (new Decoder($body))->value();
            } catch (UnexpectedValueException) {
                continue;  // what cannot be read answers nothing
            }
            $of = is_array($message) ? $message['id'] ?? null : 0;
            if (is_int($of) || is_string($of)) $this->early[$of] = $message;
            elseif ($of === null && ($message['type'] ?? '') === 'error')
                throw new RuntimeException("a request could not be read: {$message['message']}");
        }
        $answer = $this->early[$id];
        unset($this->early[$id]);
        return $answer;
    }

    /** Sends a request and returns its answer. A call that was refused and has certainly not run (`retryable`:
     * OVERLOADED and its like) is sent again, until its deadline. */
    public function ask(array $request): array
    {
        for ($due = microtime(true) + DEADLINE_MS / 1000;; usleep(50_000)) {
            $answer = $this->answerTo($this->begin($request));
            if (!($answer['retryable'] ?? false) || microtime(true) > $due) return $answer;
        }
    }

    /** The result of one plugin, or its error as an exception. */
    public function invoke(string $plugin, string $action, array $payload): mixed
    {
        $answer = $this->ask(call($plugin, $action, $payload));
        return $answer['type'] === 'result' ? $answer['result'] : throw new RuntimeException($answer['message']);
    }

    public function close(): void
    {
        $this->connection->close();
    }
}

/** One event for a hook; without a plugin it is a dispatch to all that have it. */
function call(?string $plugin, string $action, array $payload): array
{
    $to = $plugin === null ? ['type' => 'dispatch'] : ['type' => 'invoke', 'plugin' => $plugin];
    return $to + ['action' => $action, 'userId' => USER, 'deadlineMs' => DEADLINE_MS, 'payload' => $payload];
}

// ---------------------------------------------------------------- the ten steps
/** The map in a list whose field has this value. */
function found(array $list, string $field, string $value): array
{
    foreach ($list as $one) if ($one[$field] === $value) return $one;
    throw new RuntimeException("nothing there has the $field $value");
}

function steps(string $endpoint): Host
{
    $asking = new Host($endpoint, 'REQ');  // a question and its answer are what REQ is for; all other steps use DEALER
    $welcome = $asking->ask(['type' => 'hello', 'protocol' => [1], 'client' => 'host.php']);
    $asking->close();
    $host = new Host($endpoint);
    $host->bodyBytesMax = $welcome['limits']['maxMessageBytes'];
    echo "1 hello: protocol {$welcome['protocol']}, bodies of up to $host->bodyBytesMax bytes\n";

    $plugin = found($host->ask(['type' => 'plugins', 'userId' => USER])['plugins'], 'id', 'hello-world');
    echo "2 plugins: {$plugin['id']} serves {$plugin['hooks'][0]}\n";

    $loaded = $host->invoke('hello-world', 'onDashboardLoad', ['dashboardId' => 'main']);
    echo "3 dashboard: {$loaded['customWidgets'][0]['component']}\n";

    $query = ['query' => 'sales', 'filters' => ['year' => 2026]];
    $data = $host->invoke('custom-analytics', 'onDataFetch', $query)['transformedData'];
    echo "4 data: {$data['query']} by {$data['filters'][0]}\n";

    $values = [
        'text' => 'é😀', 'bytes' => new Bytes("\x00\xff"),
        'moment' => new DateTimeImmutable('2026-01-31T12:00:00.123Z'),
        'largest' => LARGEST, 'smallest' => -LARGEST, 'float' => 1.5, 'nothing' => null, 'yes' => true,
        'list' => [1, new ArrayObject()],
    ];
    $acted = $host->invoke('action-router', 'onActionExecute', ['action' => 'echo', 'context' => $values]);
    if (encode($acted['result']) !== encode($values)) throw new RuntimeException('the values have changed');
    echo "5 action: every value came back as it left\n";

    if ($host->invoke('login-audit', 'onAuthSuccess', ['sessionId' => 's-1']) !== null)
        throw new RuntimeException('a hook without a result returned one');
    echo "6 login: done\n";

    errors($host);
    cancel($host);
    large($host);

    $sent = $host->ask(call(null, 'onDashboardLoad', ['dashboardId' => 'main']));
    $widget = found($sent['result']['customWidgets'], 'id', 'hello-world/hello-widget');
    $failed = found($sent['outcomes'], 'plugin', 'liar');
    echo "10 dispatch: {$widget['id']}; liar failed with {$failed['error']['code']}\n";
    return $host;
}

function errors(Host $host): void
{
    foreach (['nobody', 'liar'] as $plugin) {
        $error = $host->ask(call($plugin, 'onDashboardLoad', ['dashboardId' => 'main']));
        $seen[] = $error['code'] . ($error['started'] ? ' after it began' : ' unstarted');
    }
    echo "7 errors: $seen[0], $seen[1], a body that is too large ";
    try {
        $host->begin(echoed(str_repeat("\0", $host->bodyBytesMax)));
        echo "has left\n";
    } catch (NotSent) {
        echo "is not sent\n";
    }
}

function cancel(Host $host): void
{
    do {
        $spinning = $host->begin(call('spinner', 'onActionExecute', ['action' => 'spin', 'context' => []]));
        usleep(100_000);
        $host->ask(['type' => 'cancel', 'target' => $spinning]);
        $answer = $host->answerTo($spinning);
    } while ($answer['retryable']);
    echo "8 cancel: {$answer['code']}\n";
}

function echoed(string $data): array
{
    return call('action-router', 'onActionExecute', ['action' => 'echo', 'context' => ['data' => new Bytes($data)]]);
}

/** Calls under way together, each body exactly as large as the daemon allows; their answers wait for a slow reader. */
function large(Host $host): void
{
    $size = $host->bodyBytesMax - strlen(encode(['id' => 1] + echoed(''))) - 3;  // of bytes that long the head has five
    for ($n = 0; $n < LARGE_CALLS; $n++) {
        $sent[$n] = str_repeat(chr(ord('a') + $n), $size);
        $ids[$n] = $host->begin(echoed($sent[$n]));
    }
    usleep(1_000_000);
    foreach (array_reverse($ids, true) as $n => $id) {  // each answer finds its call, in whichever order it is wanted
        $answer = $host->answerTo($id);
        if ($answer['retryable'] ?? false) $answer = $host->ask(echoed($sent[$n]));
        if (($answer['result']['result']['data']->data ?? '') !== $sent[$n])
            throw new RuntimeException("call $n: " . ($answer['code'] ?? "another's answer"));
    }
    echo '9 large: ', LARGE_CALLS, " answers of a megabyte, each to its call\n";
}

/** Reads a line, asks, and says what happens to the question when the daemon ends, and that the next one is answered
 * once a daemon is there again. A question that was lost is not sent again. */
function reconnect(Host $host): void
{
    fgets(STDIN);
    $asked = $host->begin(['type' => 'ping']);
    echo "asked\n";
    try {
        $host->answerTo($asked);
        echo "the daemon has answered\n";
    } catch (Lost) {
        echo "lost: whether it ran is not known\n";
    }
    try {
        $host->begin(['type' => 'ping']);
        echo "sent to nobody\n";
    } catch (NotSent) {
        echo "away: the next one is not sent\n";
    }
    while (true) {
        try {
            echo "again: {$host->ask(['type' => 'ping'])['type']}\n";
            return;
        } catch (NotSent) {
            usleep(50_000);
        }
    }
}

if (realpath($argv[0]) === __FILE__) {
    $host = steps($argv[1] ?? 'ipc:///run/apex-exec/host.sock');
    if (($argv[2] ?? '') === 'reconnect') reconnect($host);
    $host->close();
}
