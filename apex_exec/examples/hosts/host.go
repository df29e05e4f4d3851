/*
A host in Go, with a ZMTP 3.1 of its own (https://rfc.zeromq.org/spec/37/) over net: ten steps against a daemon that
serves the example plugins.

	apt-get install golang-go golang-github-vmihailenco-msgpack.v5-dev
	GO111MODULE=off GOPATH=/usr/share/gocode go build -o host host.go
	./host ipc:///run/apex-exec/host.sock

In a module of your own, `go get github.com/vmihailenco/msgpack/v5` takes the place of the second package. With
`reconnect` as second argument it goes through the end and the return of the daemon as well (see reconnect).
*/
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

const (
	user          = "11111111-2222-4333-8444-555555555555"
	deadline      = 5 * time.Second
	grace         = 500 * time.Millisecond // how much later than its deadline an answer may arrive
	pause         = 50 * time.Millisecond
	heartbeat     = time.Second
	silence       = 10 * time.Second // a daemon that answers no heartbeat for this time is gone
	largest       = 1<<53 - 1        // what a result may hold and JavaScript can read
	frameBytesMax = 16 << 20
	greetingBytes = 64
)

const more, long, command = 1, 2, 4 // the flags of a frame

var (
	errNotSent = errors.New("not sent, so nothing has run")
	errLost    = errors.New("no answer; whether it has run is not known")
)

// fields are a message of the protocol, or a map in one.
type fields = map[string]any

// at is what lies in maps and lists at this place; nil if there is nothing.
func at(value any, path ...any) any {
	for _, step := range path {
		inMap, _ := value.(fields)
		inList, _ := value.([]any)
		if name, is := step.(string); is {
			value = inMap[name]
		} else if index := step.(int); index < len(inList) {
			value = inList[index]
		} else {
			return nil
		}
	}
	return value
}

// found is the map in a list whose field has this value; nil if there is none.
func found(list any, field, wanted string) any {
	items, _ := list.([]any)
	for _, one := range items {
		if at(one, field) == wanted {
			return one
		}
	}
	return nil
}

// number is an integer of any size that is not negative; 0 if it is not one.
func number(value any) uint64 {
	switch read := reflect.ValueOf(value); {
	case read.CanUint():
		return read.Uint()
	case read.CanInt():
		return uint64(read.Int())
	}
	return 0
}

// must returns what came, or ends the program.
func must[Value any](came Value, err error) Value {
	if err != nil {
		log.Fatal(err)
	}
	return came
}

// ---------------------------------------------------------------- ZMTP

// connection is one connection to the daemon's unix socket that has been greeted.
type connection struct {
	net.Conn
	read    *bufio.Reader
	isReq   bool
	writing sync.Mutex
	heard   atomic.Int64
	busy    sync.Mutex // while somebody holds it, nothing more is read
}

func dial(endpoint, socketType string) (*connection, error) {
	raw, err := net.Dial("unix", strings.TrimPrefix(endpoint, "ipc://"))
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: raw, isReq: socketType == "REQ"}
	c.read = bufio.NewReaderSize(c, 1<<16)
	raw.SetDeadline(time.Now().Add(silence))
	if err := c.greet(socketType); err != nil {
		raw.Close()
		return nil, err
	}
	raw.SetDeadline(time.Time{})
	go c.keepAlive()
	return c, nil
}

// Read notes that the daemon is there.
func (c *connection) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	c.heard.Store(time.Now().UnixNano())
	return n, err
}

// greet sends the greeting and READY, as the daemon does. Ours has no Identity: it refuses a name that a host chose.
func (c *connection) greet(socketType string) error {
	greeting := make([]byte, greetingBytes)
	copy(greeting, "\xff\x00\x00\x00\x00\x00\x00\x00\x00\x7f\x03\x01NULL")
	ready := "\x05READY\x0bSocket-Type\x00\x00\x00" + string(rune(len(socketType))) + socketType
	if _, err := c.Write(append(greeting, frame(command, []byte(ready))...)); err != nil {
		return err
	}
	theirs := make([]byte, greetingBytes)
	if _, err := io.ReadFull(c.read, theirs); err != nil {
		return err
	}
	if theirs[0] != 0xff || theirs[10] < 3 || string(bytes.TrimRight(theirs[12:32], "\x00")) != "NULL" {
		return errors.New("the peer does not speak ZMTP 3 with NULL")
	}
	flags, body, err := c.nextFrame()
	router := []byte("socket-type\x00\x00\x00\x06router")
	if err == nil && (flags != command || !bytes.Contains(bytes.ToLower(body), router)) {
		err = errors.New("this is not a daemon")
	}
	return err
}

func frame(flags byte, body []byte) []byte {
	if len(body) < 256 {
		return append([]byte{flags, byte(len(body))}, body...)
	}
	return append(binary.BigEndian.AppendUint64([]byte{flags | long}, uint64(len(body))), body...)
}

// nextFrame returns the flags, without that of a long frame, and the body.
func (c *connection) nextFrame() (byte, []byte, error) {
	var head [9]byte
	if _, err := io.ReadFull(c.read, head[:2]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1])
	if head[0]&long != 0 {
		if _, err := io.ReadFull(c.read, head[2:]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(head[1:])
	}
	if head[0]&^(more|long|command) != 0 || size > frameBytesMax {
		return 0, nil, errors.New("not a frame")
	}
	body := make([]byte, size)
	_, err := io.ReadFull(c.read, body)
	return head[0] &^ long, body, err
}

// write is for all goroutines.
func (c *connection) write(data []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.SetWriteDeadline(time.Now().Add(silence))
	_, err := c.Write(data)
	return err
}

// send writes one message. If it fails, the message has not left as a whole, and half a message is never served.
func (c *connection) send(body []byte) error {
	data := frame(0, body)
	if c.isReq {
		data = append([]byte{more, 0}, data...)
	}
	return c.write(data)
}

// receive returns the body of the next message, which is its last frame.
func (c *connection) receive() ([]byte, error) {
	for {
		flags, body, err := c.nextFrame()
		c.busy.Lock()
		c.busy.Unlock()
		switch {
		case err != nil:
			return nil, err
		case flags == command && bytes.HasPrefix(body, []byte("\x04PING")) && len(body) >= 7:
			if err := c.write(frame(command, append([]byte("\x04PONG"), body[7:]...))); err != nil {
				return nil, err
			}
		case flags == 0:
			return body, nil
		}
	}
}

// keepAlive sends a heartbeat when the daemon has been silent, and ends the connection when it stays so.
func (c *connection) keepAlive() {
	for range time.Tick(heartbeat) {
		quiet := time.Since(time.Unix(0, c.heard.Load()))
		if quiet > silence || quiet > heartbeat && c.write(frame(command, []byte("\x04PING\x00\x00go"))) != nil {
			c.Close()
			return
		}
	}
}

// ---------------------------------------------------------------- requests and answers

// asked is a request that was sent. Its answer comes through the channel, which is closed if none will come.
type asked struct {
	id     uint64
	answer chan fields
}

// host has any number of requests under way on one connection, which it makes when something is to be sent.
type host struct {
	endpoint, socketType string
	bodyBytesMax         int
	lock                 sync.Mutex // holds what follows
	connection           *connection
	id                   uint64
	pending              map[uint64]chan fields
}

// begin sends a request.
func (h *host) begin(request fields) (*asked, error) {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.id++
	request["id"] = h.id
	body := must(msgpack.Marshal(request))
	if len(body) > h.bodyBytesMax {
		return nil, fmt.Errorf("%w: the body is too large", errNotSent)
	}
	if h.connection == nil {
		made, err := dial(h.endpoint, h.socketType)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", errNotSent, err)
		}
		h.connection, h.pending = made, map[uint64]chan fields{}
		go h.takeAnswers(made, h.pending)
	}
	sent := &asked{h.id, make(chan fields, 1)}
	h.pending[sent.id] = sent.answer
	if err := h.connection.send(body); err != nil {
		h.connection.Close()
		return nil, fmt.Errorf("%w: %v", errNotSent, err)
	}
	return sent, nil
}

// takeAnswers gives each answer to its request until the connection ends.
func (h *host) takeAnswers(from *connection, pending map[uint64]chan fields) {
	for {
		body, err := from.receive()
		if err != nil {
			break
		}
		var got fields
		if msgpack.Unmarshal(body, &got) != nil {
			continue // what cannot be read answers nothing
		}
		id := number(at(got, "id"))
		if at(got, "type") == "error" && at(got, "id") == nil {
			log.Fatalf("a request could not be read: %s", at(got, "message"))
		}
		h.lock.Lock()
		if answer := pending[id]; answer != nil {
			delete(pending, id)
			answer <- got
		}
		h.lock.Unlock()
	}
	from.Close()
	h.lock.Lock()
	defer h.lock.Unlock()
	h.connection = nil
	for _, answer := range pending {
		close(answer)
	}
}

// wait returns the answer, or errLost.
func (h *host) wait(sent *asked) (fields, error) {
	select {
	case got, is := <-sent.answer:
		if is {
			return got, nil
		}
	case <-time.After(deadline + grace):
		h.lock.Lock()
		defer h.lock.Unlock()
		delete(h.pending, sent.id)
	}
	return nil, errLost
}

// ask sends a request and returns its answer. A call that was refused and has certainly not run (OVERLOADED and its
// like) is sent again, until its deadline.
func (h *host) ask(request fields) (fields, error) {
	for due := time.Now().Add(deadline); ; time.Sleep(pause) {
		sent, err := h.begin(request)
		if err != nil {
			return nil, err
		}
		got, err := h.wait(sent)
		if err != nil || at(got, "retryable") != true || time.Now().After(due) {
			return got, err
		}
	}
}

func (h *host) close() {
	h.lock.Lock()
	defer h.lock.Unlock()
	if h.connection != nil {
		h.connection.Close()
	}
}

// call is one event for a hook; without a plugin it is a dispatch to all that have it.
func call(plugin, action string, payload fields) fields {
	made := fields{"type": "dispatch", "action": action, "userId": user, "deadlineMs": deadline.Milliseconds(),
		"payload": payload}
	if plugin != "" {
		made["type"], made["plugin"] = "invoke", plugin
	}
	return made
}

// ---------------------------------------------------------------- the ten steps

// result is what a hook has returned; an error ends the program.
func result(answer fields) any {
	if at(answer, "type") == "error" {
		log.Fatalf("%s: %s", at(answer, "code"), at(answer, "message"))
	}
	return at(answer, "result")
}

// written is a value as its bytes, the keys of its maps in order.
func written(value any) string {
	var out bytes.Buffer
	encoder := msgpack.NewEncoder(&out).SetSortMapKeys(true)
	encoder.UseCompactInts(true)
	return must(out.String, encoder.Encode(value))()
}

var dashboard = fields{"dashboardId": "main"}

func steps(endpoint string) *host {
	asking := &host{endpoint: endpoint, socketType: "REQ", bodyBytesMax: 1 << 20} // DEALER is for more than one question
	welcome := must(asking.ask(fields{"type": "hello", "protocol": []int{1}, "client": "host.go"}))
	asking.close()
	limit := int(number(at(welcome, "limits", "maxMessageBytes")))
	h := &host{endpoint: endpoint, socketType: "DEALER", bodyBytesMax: limit}
	fmt.Printf("1 hello: protocol %d, bodies of up to %d bytes\n", at(welcome, "protocol"), h.bodyBytesMax)
	listed := must(h.ask(fields{"type": "plugins", "userId": user}))
	plugin := found(at(listed, "plugins"), "id", "hello-world")
	fmt.Printf("2 plugins: %s serves %s\n", at(plugin, "id"), at(plugin, "hooks", 0))
	loaded := result(must(h.ask(call("hello-world", "onDashboardLoad", dashboard))))
	fmt.Printf("3 dashboard: %s\n", at(loaded, "customWidgets", 0, "component"))
	query := fields{"query": "sales", "filters": fields{"year": 2026}}
	data := at(result(must(h.ask(call("custom-analytics", "onDataFetch", query)))), "transformedData")
	fmt.Printf("4 data: %s by %s\n", at(data, "query"), at(data, "filters", 0))
	values := fields{
		"text": "é😀", "bytes": []byte{0x00, 0xff}, "moment": time.Date(2026, 1, 31, 12, 0, 0, 123_000_000, time.UTC),
		"largest": largest, "smallest": -largest, "float": 1.5, "nothing": nil, "yes": true, "list": []any{1, fields{}},
	}
	echo := must(h.ask(call("action-router", "onActionExecute", fields{"action": "echo", "context": values})))
	if written(at(result(echo), "result")) != written(values) {
		log.Fatal("the values have changed")
	}
	fmt.Println("5 action: every value came back as it left")
	if result(must(h.ask(call("login-audit", "onAuthSuccess", fields{"sessionId": "s-1"})))) != nil {
		log.Fatal("a hook without a result returned one")
	}
	fmt.Println("6 login: done")
	problems(h)
	cancel(h)
	large(h)
	sent := must(h.ask(call("", "onDashboardLoad", dashboard)))
	widget := found(at(result(sent), "customWidgets"), "id", "hello-world/hello-widget")
	failed := found(at(sent, "outcomes"), "plugin", "liar")
	fmt.Printf("10 dispatch: %s; liar failed with %s\n", at(widget, "id"), at(failed, "error", "code"))
	return h
}

func problems(h *host) {
	fmt.Print("7 errors: ")
	for _, plugin := range []string{"nobody", "liar"} {
		problem := must(h.ask(call(plugin, "onDashboardLoad", dashboard)))
		began := map[any]string{true: "after it began", false: "unstarted"}[at(problem, "started")]
		fmt.Print(at(problem, "code"), " ", began, ", ")
	}
	_, err := h.begin(echoed(make([]byte, h.bodyBytesMax)))
	left := map[bool]string{true: "is not sent", false: "has left"}[errors.Is(err, errNotSent)]
	fmt.Println("a body that is too large", left)
}

func cancel(h *host) {
	for {
		spinning := must(h.begin(call("spinner", "onActionExecute", fields{"action": "spin", "context": fields{}})))
		time.Sleep(2 * pause)
		must(h.ask(fields{"type": "cancel", "target": spinning.id}))
		if ended := must(h.wait(spinning)); at(ended, "retryable") != true {
			fmt.Printf("8 cancel: %s\n", at(ended, "code"))
			return
		}
	}
}

func echoed(data []byte) fields {
	return call("action-router", "onActionExecute", fields{"action": "echo", "context": fields{"data": data}})
}

// large has calls under way together, each body exactly as large as the daemon allows; the answers wait for a slow
// reader.
func large(h *host) {
	bare := echoed(make([]byte, 1<<16)) // as many bytes before the data as any larger call has
	bare["id"] = h.id
	size := h.bodyBytesMax - len(must(msgpack.Marshal(bare))) + 1<<16
	h.connection.busy.Lock()
	var sent [8]*asked
	for n := range sent {
		sent[n] = must(h.begin(echoed(bytes.Repeat([]byte{byte('a' + n)}, size))))
	}
	time.Sleep(time.Second)
	h.connection.busy.Unlock()
	for n := range sent { // each answer finds its call, in whichever order it comes
		data := bytes.Repeat([]byte{byte('a' + n)}, size)
		got := must(h.wait(sent[n]))
		if at(got, "retryable") == true {
			got = must(h.ask(echoed(data)))
		}
		if written(at(result(got), "result")) != written(fields{"data": data}) {
			log.Fatalf("call %d has another's answer", n)
		}
	}
	fmt.Printf("9 large: %d answers of a megabyte, each to its call\n", len(sent))
}

// reconnect reads a line, asks, and says what happens to the question when the daemon ends, and that the next one is
// answered once a daemon is there again. A question that was lost is not sent again.
func reconnect(h *host) {
	bufio.NewReader(os.Stdin).ReadString('\n')
	sent := must(h.begin(fields{"type": "ping"}))
	fmt.Println("asked")
	if _, err := h.wait(sent); errors.Is(err, errLost) {
		fmt.Println("lost: whether it ran is not known")
	}
	if _, err := h.begin(fields{"type": "ping"}); errors.Is(err, errNotSent) {
		fmt.Println("away: the next one is not sent")
	}
	got, err := h.ask(fields{"type": "ping"})
	for ; errors.Is(err, errNotSent); got, err = h.ask(fields{"type": "ping"}) {
		time.Sleep(pause)
	}
	fmt.Printf("again: %s\n", at(must(got, err), "type"))
}

func main() {
	log.SetFlags(0)
	arguments := append(os.Args[1:], "ipc:///run/apex-exec/host.sock")
	h := steps(arguments[0])
	defer h.close()
	if len(arguments) > 1 && arguments[1] == "reconnect" {
		reconnect(h)
	}
}
