<?php
/** Drives the example host in PHP for `apex-exec conformance host`, without aborts and host methods, which it does not have. */
declare(strict_types=1);

require __DIR__ . '/../../apex_exec/examples/hosts/host.php';

function fromJson(mixed $value): mixed
{
    if (is_array($value)) return array_map(fromJson(...), $value);
    if (!$value instanceof stdClass) return $value;
    if (isset($value->{'$bin'})) return new Bytes(base64_decode($value->{'$bin'}));
    if (isset($value->{'$time'})) return new DateTimeImmutable($value->{'$time'});
    return array_map(fromJson(...), (array) $value) ?: new ArrayObject();
}

function toJson(mixed $value): mixed
{
    return match (true) {
        $value instanceof Bytes => ['$bin' => base64_encode($value->data)],
        $value instanceof DateTimeInterface => ['$time' => $value->format('Y-m-d\TH:i:s.u\Z')],
        is_array($value) => array_map(toJson(...), $value),
        default => $value,
    };
}

function failed(Exception $error): array
{
    $tooLarge = $error->getMessage() === 'the body is too large';
    return ['error' => [
        'code' => $tooLarge ? 'PAYLOAD_TOO_LARGE' : 'CONNECTION_LOST', 'started' => $tooLarge ? false : null,
        'retryable' => $error instanceof NotSent && !$tooLarge, 'executed' => $error instanceof NotSent ? false : null]];
}

function outcome(Host $host, int|Exception $sent): array
{
    try {
        $reply = is_int($sent) ? $host->answerTo($sent) : throw $sent;
    } catch (NotSent | Lost $error) {
        return failed($error);
    }
    if ($reply['type'] === 'welcome') $host->bodyBytesMax = $reply['limits']['maxMessageBytes'];
    if ($reply['type'] !== 'error') return ['reply' => $reply];
    return ['error' => ['executed' => null] + array_intersect_key($reply, ['code' => 0, 'started' => 0, 'retryable' => 0])];
}

function begun(Host $host, array $operation): int|Exception
{
    $fields = array_diff_key($operation, ['op' => 0]) + ($operation['op'] === 'hello' ? ['protocol' => [1]] : []);
    try {
        return $host->begin(['type' => $operation['op']] + $fields);
    } catch (NotSent $error) {
        return $error;
    }
}

$host = new Host($argv[1]);
while (($line = fgets(STDIN)) !== false) {
    $sent = array_map(fn ($operation) => begun($host, $operation), fromJson(json_decode($line))['ops']);
    $done = array_map(fn ($one) => toJson(outcome($host, $one)), $sent);
    echo json_encode(['done' => $done], JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION), "\n";
}
