"""The attacks that a layer stops: what the plugin tries, and what the outside sees where it comes through.

Each is the body of a hook that gets ``w``, the world's addresses, and returns its evidence. ``proof`` names what
is looked at afterwards; ``stops`` are the layers of which each, alone, is known to stop it. With none of them in force
it must succeed: that is its control.
"""

from __future__ import annotations

from typing import NamedTuple

MODULES = ["ctypes", "socket", "subprocess", "mmap", "fcntl", "signal", "resource", "select", "_thread", "atexit"]
"""Named in sandbox.extra_modules: what an attacker would dig out of the interpreter anyway."""

PRELUDE = '''
import _thread, ctypes, errno, fcntl, gc, mmap, os, resource, select, signal, socket, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.shmat.restype = ctypes.c_void_p


def c(value):
    if isinstance(value, bytes):
        return ctypes.c_char_p(value)
    return ctypes.c_long(value) if isinstance(value, int) else value


def sc(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(c, arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def inet(port):
    return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton("127.0.0.1"))


def attack(w):
BODY

@plugin.hook("onActionExecute")
def act(params):
    return {"result": attack(params["context"]), "metadata": {}}
'''


class Attack(NamedTuple):
    """One row of the table. ``who``: "root" where only a root daemon's worker could do it at all."""

    name: str
    category: str
    proof: str
    stops: tuple[str, ...]
    code: str
    who: str = "any"


S, L, N, I, R = "seccomp", "landlock", "namespaces", "identity", "rlimits"  # noqa: E741 - the table's columns
FS, NET, PROC, KERNEL = "file system", "network", "processes", "kernel"

KERNELS_OWN = (
    "def reached(absent, number, *arguments):\n    try:\n        return sc(number, *arguments)\n"
    "    except OSError as error:\n        if error.errno == absent:\n            return None\n        raise\n")
"""For what a kernel may be built without: the call's result, or None for ``absent``, the errno by which the kernel's
own code says that it has no such thing. Either way the call came as far as the kernel; the filter never answers so."""

ATTACKS: tuple[Attack, ...] = (
    # --- file system
    Attack("read a file", FS, "secret", (S, L, N), "return open(w['secret_path']).read()"),
    Attack("read a file, raw open", FS, "secret", (S, L, N),
           "return os.read(sc(2, w['secret_path'].encode(), 0), 99).decode()"),
    Attack("read a file, raw openat", FS, "secret", (S, L, N),
           "return os.read(sc(257, -100, w['secret_path'].encode(), 0), 99).decode()"),
    Attack("read a file, raw openat2", FS, "secret", (S, L, N),
           "return os.read(sc(437, -100, w['secret_path'].encode(), struct.pack('=QQQ', 0, 0, 0), 24), 99).decode()"),
    Attack("read through a symlink", FS, "secret", (S, L, N), "return open(w['dir'] + '/link').read()"),
    Attack("read by .. out of the root", FS, "secret", (S, L, N),
           "return open('/' + '../' * 40 + w['secret_path'].lstrip('/')).read()"),
    Attack("create a file", FS, "files", (S, L, N),
           "os.close(os.open(w['dir'] + '/new', os.O_CREAT | os.O_WRONLY, 0o666))"),
    Attack("create a file, raw creat", FS, "files", (S, L, N), "sc(85, (w['dir'] + '/new').encode(), 0o666)"),
    Attack("empty a file by O_TRUNC", FS, "files", (S, L, N),
           "os.close(os.open(w['target'], os.O_WRONLY | os.O_TRUNC))"),
    Attack("empty a file by truncate", FS, "files", (S, L, N), "os.truncate(w['target'], 0)"),
    Attack("empty a file, raw truncate", FS, "files", (S, L, N), "sc(76, w['target'].encode(), 0)"),
    Attack("remove a file", FS, "files", (S, L, N), "os.unlink(w['target'])"),
    Attack("remove a file, raw unlinkat", FS, "files", (S, L, N), "sc(263, -100, w['target'].encode(), 0)"),
    Attack("rename a file", FS, "files", (S, L, N), "os.rename(w['target'], w['dir'] + '/moved')"),
    Attack("make a folder", FS, "files", (S, L, N), "os.mkdir(w['dir'] + '/folder')"),
    Attack("make a symlink", FS, "files", (S, L, N), "os.symlink('/etc', w['dir'] + '/symlink')"),
    Attack("make a hard link", FS, "files", (S, L, N), "os.link(w['target'], w['dir'] + '/hard')"),
    Attack("make a fifo", FS, "files", (S, L, N), "os.mkfifo(w['dir'] + '/fifo')"),
    Attack("change a file's mode", FS, "files", (S, N), "os.chmod(w['target'], 0o600)"),
    Attack("change a file's mode, raw fchmodat", FS, "files", (S, N), "sc(268, -100, w['target'].encode(), 0o600)"),
    Attack("change a file's times", FS, "files", (S, N), "os.utime(w['target'], (1, 1))"),
    Attack("stat a path", FS, "true", (S, N), "return os.stat(w['secret_path']).st_ino == w['inode']"),
    Attack("stat a path, raw statx", FS, "true", (S, N),
           "buffer = ctypes.create_string_buffer(256)\nsc(332, -100, w['secret_path'].encode(), 0, 0x7FF, buffer)\n"
           "return struct.unpack_from('=Q', buffer, 32)[0] == w['inode']"),
    Attack("list a folder", FS, "true", (S, L, N), "return 'secret' in os.listdir(w['dir'])"),
    Attack("watch a folder", FS, "true", (S, N),
           "fd = libc.inotify_init1(0)\nreturn fd >= 0 and libc.inotify_add_watch(fd, w['dir'].encode(), 0x100) >= 0"),
    Attack("a file in memory (memfd)", FS, "true", (S,), "return os.memfd_create('x') >= 0"),
    Attack("a file in memory, raw memfd_create", FS, "true", (S,), "return sc(319, b'x', 0) >= 0"),
    Attack("load a library", FS, "true", (S, L, N), "return ctypes.CDLL(w['library'])._handle > 0"),
    Attack("find out the working folder", FS, "true", (S,),  # os.getcwd names the bundle's folder, which is nowhere
           "found = ctypes.create_string_buffer(4096)\nreturn sc(79, found, 4096) > 0 and bool(found.value)"),
    Attack("open by handle", FS, "secret", (S, L, N, I),
           "handle = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0) + bytes(128))\nmount = ctypes.c_int()\n"
           "sc(303, -100, w['secret_path'].encode(), handle, ctypes.byref(mount), 0)\n"
           "fd = sc(304, os.open(w['dir'], 0), handle, 0)\nreturn os.read(fd, 99).decode()", "root"),
    Attack("mount over a folder", FS, "files", (S, L, I),
           "if libc.mount(b'none', (w['dir'] + '/mnt').encode(), b'tmpfs', 0, None):\n"
           "    raise OSError(ctypes.get_errno())",
           "root"),
    # --- network
    Attack("TCP connect", NET, "packet", (S, L, N),
           "s = socket.socket()\ns.connect(('127.0.0.1', w['tcp']))\ns.sendall(w['token'].encode())"),
    Attack("TCP connect, raw", NET, "packet", (S, L, N),
           "fd = sc(41, 2, 1, 0)\nsc(42, fd, inet(w['tcp']), 16)\nos.write(fd, w['token'].encode())"),
    Attack("TCP bind and listen", NET, "true", (S, L),
           "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nreturn s.getsockname()[1] > 0"),
    Attack("UDP send", NET, "packet", (S, N),
           "socket.socket(type=socket.SOCK_DGRAM).sendto(w['token'].encode(), ('127.0.0.1', w['udp']))"),
    Attack("UDP send, raw", NET, "packet", (S, N),
           "fd = sc(41, 2, 2, 0)\nsc(44, fd, w['token'].encode(), len(w['token']), 0, inet(w['udp']), 16)"),
    Attack("raw IP socket", NET, "true", (S, I),
           "return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno() > 0",
           "root"),
    Attack("netlink", NET, "true", (S,),
           "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n"
           "s.send(struct.pack('=IHHIIB3x', 20, 18, 0x301, 1, 0, 0))\nreturn b'lo' in s.recv(9999)"),
    Attack("a socket with a path (docker.sock)", NET, "packet", (S, N),
           "s = socket.socket(socket.AF_UNIX)\ns.connect(w['unix'])\ns.sendall(w['token'].encode())"),
    Attack("a socket with a path, raw", NET, "packet", (S, N),
           "fd = sc(41, 1, 1, 0)\nname = struct.pack('=H', 1) + w['unix'].encode() + b'\\0'\n"
           "sc(42, fd, name, len(name))\n"
           "os.write(fd, w['token'].encode())"),
    Attack("an abstract socket", NET, "packet", (S, L, N),
           "s = socket.socket(socket.AF_UNIX)\ns.connect('\\0' + w['abstract'])\ns.sendall(w['token'].encode())"),
    Attack("a datagram pair to a path", NET, "packet", (S, N),
           "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
           "a.sendto(w['token'].encode(), w['unix_dgram'])"),
    Attack("the daemon's own host socket", NET, "true", (S, N),
           "s = socket.socket(socket.AF_UNIX)\ns.connect(w['host_sock'])\nreturn True"),
    Attack("the daemon's admin socket", NET, "true", (S, N),
           "s = socket.socket(socket.AF_UNIX)\ns.connect(w['admin_sock'])\nreturn True"),
    Attack("listen to the hypervisor (AF_VSOCK)", NET, "true", (S,),
           "try:\n    s = socket.socket(40, socket.SOCK_STREAM)\nexcept OSError as error:\n"
           "    if error.errno != errno.EAFNOSUPPORT:  # the kernel's own answer where it has no vsock\n"
           "        raise\n    return True\n"
           "s.bind((0xFFFFFFFF, 0xFFFFFFFF))\ns.listen()\nreturn s.getsockname()[1] > 0"),
    Attack("AF_VSOCK reaches the kernel, raw", NET, "true", (S,), KERNELS_OWN +
           "fd = reached(errno.EAFNOSUPPORT, 41, 40, 1, 0)\nif fd is not None:\n"
           "    sc(49, fd, struct.pack('=HHIIB3x', 40, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0), 16)\n    sc(50, fd, 1)\n"
           "return True"),
    Attack("AF_ALG reaches the kernel, raw", NET, "true", (S,), KERNELS_OWN +
           "fd = reached(errno.EAFNOSUPPORT, 41, 38, 5, 0)\nif fd is not None:\n"
           "    sc(49, fd, struct.pack('=H14sII64s', 38, b'hash', 0, 0, b'sha256'), 88)\n"
           "    work = sc(43, fd, 0, 0)\n    os.write(work, b'abc')\n"
           "    assert os.read(work, 32).hex().startswith('ba7816bf')\n"
           "return True"),
    Attack("io_uring", NET, "true", (S,), "return sc(425, 4, ctypes.create_string_buffer(120)) >= 0"),
    Attack("resolve a name", NET, "true", (S, L, N),
           "found = ctypes.c_void_p()\nassert os.access('/etc/hosts', os.R_OK) or open('/etc/hosts')\n"
           "return libc.getaddrinfo(b'localhost', None, None, ctypes.byref(found)) == 0"),
    Attack("hand a descriptor over (SCM_RIGHTS)", NET, "true", (S,),
           "a, b = socket.socketpair()\nsocket.send_fds(a, [b'x'], [1])\nreturn bool(socket.recv_fds(b, 1, 1)[1])"),
    # --- processes and signals
    Attack("fork", PROC, "process", (S,),
           "pid = os.fork()\nif pid == 0:\n    time.sleep(5)\n    os._exit(0)\nreturn pid"),
    Attack("fork, raw", PROC, "process", (S,),
           "pid = sc(57)\nif pid == 0:\n    time.sleep(5)\n    os._exit(0)\nreturn pid"),
    Attack("clone, raw", PROC, "process", (S,),
           "pid = sc(56, 17, 0, 0, 0, 0)\nif pid == 0:\n    time.sleep(5)\n    os._exit(0)\nreturn pid"),
    Attack("clone3, raw", PROC, "process", (S,),
           "pid = sc(435, struct.pack('=8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64)\nif pid == 0:\n    time.sleep(5)\n"
           "    os._exit(0)\n"
           "return pid"),
    Attack("start a thread", PROC, "true", (S,),
           "seen = []\n_thread.start_new_thread(seen.append, (1,))\ntime.sleep(0.3)\nreturn bool(seen)"),
    Attack("exec", PROC, "files", (S, L, N), "os.execv('/bin/sh', ['sh', '-c', f\": > {w['dir']}/exec\"])"),
    Attack("exec, raw execveat", PROC, "files", (S, L, N),
           "argv = (ctypes.c_char_p * 4)(b'sh', b'-c', f\": > {w['dir']}/exec\".encode(), None)\n"
           "sc(322, -100, b'/bin/sh', argv, None, 0)"),
    Attack("subprocess", PROC, "files", (S, L, N),
           "subprocess.run(['/bin/sh', '-c', f\": > {w['dir']}/sub\"], check=True)"),
    Attack("posix_spawn", PROC, "files", (S, L, N),
           "os.posix_spawn('/bin/sh', ['sh', '-c', f\": > {w['dir']}/spawn\"], {})\ntime.sleep(0.5)"),
    Attack("kill a stranger", PROC, "victim", (S, L), "os.kill(w['victim'], 9)"),
    Attack("kill a stranger, raw tgkill", PROC, "victim", (S, L), "sc(234, w['victim'], w['victim'], 9)"),
    Attack("kill a stranger by pidfd", PROC, "victim", (S, L), "sc(424, sc(434, w['victim'], 0), 9, 0, 0)"),
    Attack("signal the parent", PROC, "true", (S, L), "os.kill(os.getppid(), 0)\nreturn True"),
    Attack("kill a stranger's group", PROC, "victim", (S, L), "os.killpg(w['victim'], 9)"),
    Attack("stop itself", PROC, "timeout", (S,), "os.kill(os.getpid(), signal.SIGSTOP)"),
    Attack("trace a stranger", PROC, "true", (S, L), "return sc(101, 0x4206, w['victim'], 0, 0) == 0"),
    Attack("read a stranger's memory", PROC, "secret", (S, L),
           "buffer = ctypes.create_string_buffer(64)\n"
           "mine = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), w['length'])\n"
           "theirs = (ctypes.c_size_t * 2)(w['address'], w['length'])\n"
           "sc(310, w['victim'], mine, 1, theirs, 1, 0)\nreturn buffer.raw[:w['length']].decode()"),
    Attack("read a stranger's /proc mem", PROC, "secret", (S, L, N),
           "fd = os.open(f\"/proc/{w['victim']}/mem\", 0)\nreturn os.pread(fd, w['length'], w['address']).decode()"),
    Attack("read a stranger's environment", PROC, "secret", (S, L, N),
           "return open(f\"/proc/{w['victim']}/environ\").read()"),
    Attack("read its own maps", PROC, "true", (S, L, N), "return 'libc' in open('/proc/self/maps').read()"),
    Attack("lower a stranger's limits", PROC, "true", (S,),
           "return sc(302, w['victim'], 7, struct.pack('=QQ', 64, 64), 0) == 0"),
    Attack("a stranger's CPU time", PROC, "true", (S,), "return time.clock_gettime_ns(~w['victim'] << 3 | 2) > 0"),
    Attack("a stranger's CPU time, raw with high bits", PROC, "true", (S,),
           "clock = 1 << 32 | (~w['victim'] << 3 | 2) & 0xFFFFFFFF\n"
           "return sc(228, clock, ctypes.create_string_buffer(16)) == 0"),
    Attack("whether a stranger lives, by its clock", PROC, "true", (S,),
           "return sc(229, ~w['victim'] << 3 | 2, ctypes.create_string_buffer(16)) == 0"),
    Attack("a timer on a stranger's CPU clock", PROC, "true", (S,),
           "return sc(230, ~w['victim'] << 3 | 2, 1, struct.pack('=qq', 0, 0), 0) == 0"),
    Attack("where a stranger runs", PROC, "true", (S,), "return bool(os.sched_getaffinity(w['victim']))"),
    Attack("its own limits lowered", PROC, "true", (S,),
           "return sc(302, 0, 0, struct.pack('=QQ', 3000, 3000), 0) == 0"),
    Attack("its own limits lowered by setrlimit", PROC, "true", (S,),
           "return sc(160, 0, struct.pack('=QQ', 3000, 3000)) == 0"),
    Attack("its memory cap lowered", PROC, "true", (S,),
           "had = struct.pack('=QQ', *resource.getrlimit(resource.RLIMIT_DATA))\nreturn sc(302, 0, 2, had, 0) == 0"),
    Attack("a filter of its own", KERNEL, "true", (S,),
           "code = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7FFF0000), 8)\n"
           "return libc.prctl(22, 2, struct.pack('=H6xQ', 1, ctypes.addressof(code)), 0, 0) == 0"),
    Attack("the link's mode by fcntl", PROC, "true", (S,),
           "had = sc(72, 3, 3, 0)\nsc(72, 3, 4, had | 0o4000)\nreturn sc(72, 3, 4, had) == 0"),
    Attack("the link's mode by ioctl", PROC, "true", (S,),
           "os.set_blocking(3, False)\nos.set_blocking(3, True)\nreturn True"),
    Attack("who is told of the marks (F_SETOWN)", PROC, "true", (S,), "return sc(72, 4, 8, 0) == 0"),
    Attack("the link's name", PROC, "true", (S,),
           "return sc(51, 3, ctypes.create_string_buffer(110), struct.pack('=i', 110)) == 0"),
    Attack("times of what is no file", FS, "true", (S,), "return libc.futimens(0, None) == 0"),
    Attack("its death signal taken back", PROC, "true", (S,), "return libc.prctl(1, 0, 0, 0, 0) == 0"),
    Attack("be root again", PROC, "true", (S, I), "os.setresuid(0, 0, 0)\nreturn os.geteuid() == 0", "root"),
    Attack("give a file away", FS, "files", (S, N, I), "os.chown(w['target'], 1234, 1234)", "root"),
    # --- the kernel's surface, and memory that no limit counts
    Attack("executable memory", KERNEL, "forty-two", (S,),
           "at = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))\nif at == 2**64 - 1:\n"
           "    raise OSError('mmap')\n"
           "ctypes.memmove(at, b'\\xb8\\x2a\\0\\0\\0\\xc3', 6)\nreturn ctypes.CFUNCTYPE(ctypes.c_int)(at)()"),
    Attack("memory made executable", KERNEL, "forty-two", (S,),
           "at = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))\n"
           "ctypes.memmove(at, b'\\xb8\\x2a\\0\\0\\0\\xc3', 6)\n"
           "if libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 5):\n    raise OSError('mprotect')\n"
           "return ctypes.CFUNCTYPE(ctypes.c_int)(at)()"),
    Attack("32-bit calls (int 0x80)", KERNEL, "true", (S,),
           "at = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))\nif at == 2**64 - 1:\n"
           "    raise OSError('mmap')\n"
           "code = b'\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3'\nctypes.memmove(at, code, len(code))\n"
           "return ctypes.CFUNCTYPE(ctypes.c_int)(at)() == os.getpid()"),
    Attack("an x32 call reaches the kernel, raw", KERNEL, "true", (S,), KERNELS_OWN +
           "return reached(errno.ENOSYS, 0x40000000 + 39) in (None, os.getpid())"),
    Attack("shared memory, unlimited", KERNEL, "true", (S,), "return len(mmap.mmap(-1, 4096)) == 4096"),
    Attack("memory that grows down", KERNEL, "true", (S,),
           "return libc.mmap(None, ctypes.c_size_t(4096), 3, 0x122, -1, ctypes.c_long(0)) != 2**64 - 1"),
    Attack("System V shared memory", KERNEL, "shm", (S, N),
           "at = libc.shmat(w['shm'], None, 0)\nif at == 2**64 - 1:\n    raise OSError(ctypes.get_errno(), 'shmat')\n"
           "ctypes.memmove(at, w['token'].encode(), len(w['token']))"),
    Attack("a new user namespace", KERNEL, "true", (S,), "return libc.unshare(0x10000000) == 0"),
    Attack("a stranger's namespace", KERNEL, "true", (S, L, N, I),
           "return libc.setns(os.open(f\"/proc/{w['victim']}/ns/uts\", 0), 0) == 0", "root"),
    Attack("personality", KERNEL, "true", (S,), "return sc(135, 0xFFFFFFFF) >= 0"),
    Attack("keyrings", KERNEL, "true", (S,), "return sc(250, 0, -1, 1) != 0"),
    Attack("the host's name", KERNEL, "true", (S, N), "return os.uname().nodename == w['node']"),
    Attack("the machine's memory", KERNEL, "true", (S,), "return libc.sysinfo(ctypes.create_string_buffer(256)) == 0"),
    Attack("a larger pipe", KERNEL, "true", (S,), "return fcntl.fcntl(4, 1031, 1 << 20) >= 1 << 20"),
    # --- exhaustion
    Attack("descriptors without end", "exhaustion", "true", (R,),
           "held = []\nwhile len(held) < 60:\n    held.append(socket.socketpair())\nreturn True"),
    Attack("memory without end", "exhaustion", "true", ("memory",),
           "return len(bytearray(150_000_000)) == 150_000_000"),
    Attack("memory in small pieces", "exhaustion", "true", ("memory",),
           "return len([bytes(100_000) for _ in range(1500)]) == 1500"),
    Attack("memory, raw mmap", "exhaustion", "true", ("memory",),
           "at = libc.mmap(None, ctypes.c_size_t(150_000_000), 3, 0x22, -1, ctypes.c_long(0))\n"
           "if at == 2**64 - 1:\n    raise MemoryError\nctypes.memset(at, 1, 150_000_000)\nreturn True"),
)
