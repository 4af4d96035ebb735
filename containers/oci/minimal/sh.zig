//! The only program of a modelcar with the base "minimal": as much of a shell as KServe asks of a modelcar.
//!
//! It is /bin/sh, and ln, ls and sleep are links to it. A command line is looked at as a whole before any of it runs: what
//! this shell does not understand is refused with words and exit code 2, and has done nothing.
//!
//!     list     chain { ';' chain } [ ';' ]
//!     chain    command { ( '&&' | '||' ) command }
//!     command  '(' list ')'  |  'until' list 'do' list 'done'  |  word { word }
//!     word     plain characters, '...', "...", $$; in double quotes also $( list )
//!
//! The commands are echo, exit, [, ln, ls and sleep. Nothing is ever started: all of them run in this one process, which is
//! why $$ is the process whose /proc/$$/root holds the model.

const std = @import("std");
const linux = std.os.linux;

pub const panic = std.debug.no_panic; // a bug ends in a trap, without the machinery for a stack trace
pub const std_options: std.Options = .{ .enable_segfault_handler = false };

const text_max = 16 << 10; // bytes of a command line
const output_max = 1 << 20; // bytes of the output of $(...)
const depth_max = 16; // of parentheses, loops and substitutions
const words_max = 32; // of one command

const Word = [:0]const u8;

pub fn main(init: std.process.Init.Minimal) noreturn {
    receiveSignals();
    const argv = init.args.vector;
    if (argv.len == 0 or argv.len > words_max) refuse(&.{"the number of arguments is not one that it takes"});
    var words: [words_max]Word = undefined;
    for (argv, 0..) |argument, n| words[n] = std.mem.span(argument);
    words[0] = words[0][if (std.mem.findScalarLast(u8, words[0], '/')) |slash| slash + 1 else 0..];
    var shell = Shell{ .text = "" };
    if (is(words[0], "ln") or is(words[0], "ls") or is(words[0], "sleep")) {
        linux.exit_group(shell.call(words[0..argv.len], true));
    }
    if (!is(words[0], "sh")) refuse(&.{ "it is not called sh, ln, ls or sleep, but ", words[0] });
    if (argv.len != 3 or !is(words[1], "-c")) refuse(&.{"it takes -c and one command line, and nothing else"});
    linux.exit_group(run(words[2]));
}

fn run(text: []const u8) u8 {
    if (text.len > text_max) refuse(&.{"the command line is too long"});
    if (!std.unicode.utf8ValidateSlice(text)) refuse(&.{"the command line is not UTF-8"});
    var shell = Shell{ .text = text };
    _ = shell.list(false);
    if (shell.at < text.len) shell.unexpected();
    shell.at = 0;
    return shell.list(true);
}

var space: [text_max + output_max + 64]u8 = undefined; // the words of the commands that are being read
var output: [output_max]u8 = undefined; // of the $(...) that is being run

/// Reads and runs in one go, so that what is checked is what is run. Every function that takes `live` reads its part of the
/// text in any case; only if `live` does it run it, and only then does its result mean anything.
const Shell = struct {
    text: []const u8,
    at: usize = 0,
    depth: usize = 0,
    used: usize = 0, // of `space`
    captured: ?usize = null, // of `output`; null: what is written goes to standard output
    exited: bool = false, // `exit` was run, and the rest of the line or of the parentheses is not

    fn list(sh: *Shell, live: bool) u8 {
        sh.depth += 1;
        if (sh.depth > depth_max) refuse(&.{"it is nested too deeply"});
        defer sh.depth -= 1;
        var status = sh.chain(live);
        while (sh.take(";")) {
            if (sh.endsList()) break;
            const goes_on = live and !sh.exited;
            const next = sh.chain(goes_on);
            if (goes_on) status = next;
        }
        return status;
    }

    fn chain(sh: *Shell, live: bool) u8 {
        var status = sh.command(live);
        while (true) {
            const wanted = if (sh.take("&&")) true else if (sh.take("||")) false else return status;
            const goes_on = live and !sh.exited and (status == 0) == wanted;
            const next = sh.command(goes_on);
            if (goes_on) status = next;
        }
    }

    fn command(sh: *Shell, live: bool) u8 {
        if (sh.take("(")) {
            const status = sh.list(live);
            sh.expect(")");
            if (live) sh.exited = false;
            return status;
        }
        if (sh.takeKeyword("until")) return sh.until(live);
        return sh.simple(live);
    }

    fn until(sh: *Shell, live: bool) u8 {
        const start = sh.at;
        while (true) {
            sh.at = start;
            const condition_status = sh.list(live);
            if (!sh.takeKeyword("do")) sh.unexpected();
            const goes_on = live and !sh.exited and condition_status != 0;
            const body_status = sh.list(goes_on);
            if (!sh.takeKeyword("done")) sh.unexpected();
            if (sh.exited) return if (goes_on) body_status else condition_status;
            if (!goes_on) return 0;
            wait(0); // a loop that does not sleep ends at a signal, too
        }
    }

    fn simple(sh: *Shell, live: bool) u8 {
        const before = sh.used;
        defer sh.used = before;
        var words: [words_max]Word = undefined;
        var count: usize = 0;
        while (sh.word(live)) |one| : (count += 1) {
            if (count == words_max) refuse(&.{"a command has too many words"});
            words[count] = one;
        }
        if (count == 0) sh.unexpected();
        return sh.call(words[0..count], live);
    }

    fn call(sh: *Shell, words: []const Word, live: bool) u8 {
        const arguments = words[1..];
        if (is(words[0], "echo")) return sh.echo(arguments, live);
        if (is(words[0], "exit")) return sh.exit(arguments, live);
        if (is(words[0], "[")) return condition(arguments, live);
        if (is(words[0], "ln")) return makeLink(arguments, live);
        if (is(words[0], "ls")) return sh.listFolder(arguments, live);
        if (is(words[0], "sleep")) return sleep(arguments, live);
        refuse(&.{ "there is no command ", words[0] });
    }

    /// The next word, or null at the end of the command. The caller gives `space` back.
    fn word(sh: *Shell, live: bool) ?Word {
        sh.skipSpaces();
        if (sh.at == sh.text.len or endsWord(sh.text[sh.at])) return null;
        const start = sh.used;
        while (sh.at < sh.text.len and !endsWord(sh.text[sh.at])) {
            switch (sh.text[sh.at]) {
                '\'' => {
                    const end = std.mem.findScalarPos(u8, sh.text, sh.at + 1, '\'') orelse refuse(&.{"a quote is not closed"});
                    sh.put(sh.text[sh.at + 1 .. end]);
                    sh.at = end + 1;
                },
                '"' => sh.quoted(live),
                '$' => sh.dollar(live, false),
                '[' => { // the command; elsewhere it would begin a pattern
                    if (sh.used != start or (sh.at + 1 < sh.text.len and sh.text[sh.at + 1] != ' ')) sh.unexpected();
                    sh.copy();
                },
                'a'...'z', 'A'...'Z', '0'...'9', '/', '.', '_', '-', ':', '@', ',', '+', '%', '=', ']', 0x80...0xff => sh.copy(),
                else => sh.unexpected(),
            }
        }
        sh.put("\x00");
        return space[start .. sh.used - 1 :0];
    }

    fn quoted(sh: *Shell, live: bool) void {
        sh.at += 1;
        while (sh.at < sh.text.len) {
            switch (sh.text[sh.at]) {
                '"' => {
                    sh.at += 1;
                    return;
                },
                '$' => sh.dollar(live, true),
                '\\', '`' => sh.unexpected(),
                else => sh.copy(),
            }
        }
        refuse(&.{"a quote is not closed"});
    }

    fn dollar(sh: *Shell, live: bool, in_quotes: bool) void {
        const rest = sh.text[sh.at..];
        if (std.mem.startsWith(u8, rest, "$$")) {
            sh.at += 2;
            var digits: [20]u8 = undefined;
            sh.put(decimal(@intCast(linux.getpid()), &digits));
        } else if (in_quotes and sh.captured == null and std.mem.startsWith(u8, rest, "$(")) {
            sh.at += 2;
            sh.captured = 0;
            _ = sh.list(live);
            if (live) sh.exited = false;
            sh.expect(")");
            const printed = std.mem.trimEnd(u8, output[0..sh.captured.?], "\n");
            sh.captured = null;
            sh.put(printed);
        } else sh.unexpected();
    }

    fn copy(sh: *Shell) void {
        sh.put(sh.text[sh.at..][0..1]);
        sh.at += 1;
    }

    fn put(sh: *Shell, bytes: []const u8) void {
        if (bytes.len > space.len - sh.used) refuse(&.{"its words are too long"});
        @memcpy(space[sh.used..][0..bytes.len], bytes);
        sh.used += bytes.len;
    }

    fn skipSpaces(sh: *Shell) void {
        while (sh.at < sh.text.len and sh.text[sh.at] == ' ') sh.at += 1;
    }

    fn take(sh: *Shell, symbol: []const u8) bool {
        sh.skipSpaces();
        if (!std.mem.startsWith(u8, sh.text[sh.at..], symbol)) return false;
        sh.at += symbol.len;
        return true;
    }

    fn takeKeyword(sh: *Shell, keyword: []const u8) bool {
        if (!sh.isKeyword(keyword)) return false;
        sh.at += keyword.len;
        return true;
    }

    fn isKeyword(sh: *Shell, keyword: []const u8) bool {
        sh.skipSpaces();
        const rest = sh.text[sh.at..];
        if (!std.mem.startsWith(u8, rest, keyword)) return false;
        return rest.len == keyword.len or endsWord(rest[keyword.len]);
    }

    fn endsList(sh: *Shell) bool {
        if (sh.isKeyword("do") or sh.isKeyword("done")) return true; // which skips the spaces
        return sh.at == sh.text.len or sh.text[sh.at] == ')';
    }

    fn expect(sh: *Shell, symbol: []const u8) void {
        if (!sh.take(symbol)) sh.unexpected();
    }

    fn unexpected(sh: *Shell) noreturn {
        const rest = sh.text[sh.at..];
        if (rest.len == 0) refuse(&.{"the command line ends too early"});
        refuse(&.{ "it does not understand ", rest[0..@min(rest.len, 40)] });
    }

    fn emit(sh: *Shell, bytes: []const u8) void {
        if (sh.captured) |count| {
            if (bytes.len > output.len - count) refuse(&.{"the output of $(...) is too long"});
            @memcpy(output[count..][0..bytes.len], bytes);
            sh.captured = count + bytes.len;
        } else if (!writeAll(1, bytes)) linux.exit_group(1);
    }

    fn echo(sh: *Shell, arguments: []const Word, live: bool) u8 {
        if (arguments.len > 0 and std.mem.startsWith(u8, arguments[0], "-")) refuse(&.{"echo takes no options"});
        if (!live) return 0;
        for (arguments, 0..) |one, n| {
            if (n > 0) sh.emit(" ");
            sh.emit(one);
        }
        sh.emit("\n");
        return 0;
    }

    fn exit(sh: *Shell, arguments: []const Word, live: bool) u8 {
        const code = if (arguments.len == 1) number(arguments[0]) else null;
        if (code == null or code.? > 255) refuse(&.{"exit takes one number, up to 255"});
        if (live) sh.exited = true;
        return @intCast(code.?);
    }

    /// The names in a folder, one a line, in the order of the file system.
    fn listFolder(sh: *Shell, arguments: []const Word, live: bool) u8 {
        const hidden = arguments.len > 0 and is(arguments[0], "-A");
        const paths = arguments[@intFromBool(hidden)..];
        if (paths.len > 1 or (paths.len == 1 and std.mem.startsWith(u8, paths[0], "-"))) {
            refuse(&.{"ls takes -A or no option, and one path"});
        }
        if (!live) return 0;
        const path = if (paths.len == 1) paths[0] else ".";
        const opened = linux.open(path, .{ .DIRECTORY = true, .CLOEXEC = true }, 0);
        switch (linux.errno(opened)) {
            .SUCCESS => {},
            .NOTDIR => {
                sh.emit(path);
                sh.emit("\n");
                return 0;
            },
            else => |why| return failed("ls", path, why),
        }
        const folder: i32 = @intCast(opened);
        defer _ = linux.close(folder);
        var entries: [8192]u8 align(@alignOf(linux.dirent64)) = undefined;
        while (true) {
            const got = linux.getdents64(folder, &entries, entries.len);
            if (linux.errno(got) != .SUCCESS) return failed("ls", path, linux.errno(got));
            if (got == 0) return 0;
            var at: usize = 0;
            while (at < got) {
                const entry: *linux.dirent64 = @ptrCast(@alignCast(&entries[at]));
                const name = std.mem.sliceTo(entries[at + @offsetOf(linux.dirent64, "name") .. got], 0);
                at += entry.reclen;
                if (is(name, ".") or is(name, "..") or (!hidden and name[0] == '.')) continue;
                sh.emit(name);
                sh.emit("\n");
            }
        }
    }
};

/// `[ TEXT ]`, `[ -d PATH ]` and `[ -f PATH ]`.
fn condition(arguments: []const Word, live: bool) u8 {
    if (arguments.len == 0 or !is(arguments[arguments.len - 1], "]")) refuse(&.{"a [ is not closed"});
    if (arguments.len == 2) return @intFromBool(arguments[0].len == 0);
    const folder = is(arguments[0], "-d");
    if (arguments.len != 3 or !(folder or is(arguments[0], "-f"))) {
        refuse(&.{"[ takes a text, -d and a path, or -f and a path"});
    }
    if (!live) return 0;
    var found: linux.Statx = undefined;
    const looked = linux.statx(linux.AT.FDCWD, arguments[1], 0, .{ .TYPE = true }, &found);
    if (linux.errno(looked) != .SUCCESS) return 1;
    return @intFromBool(found.mode & linux.S.IFMT != @as(u16, if (folder) linux.S.IFDIR else linux.S.IFREG));
}

/// A link that is there is replaced itself, also one to a folder: when a modelcar is started again its process has another id.
fn makeLink(arguments: []const Word, live: bool) u8 {
    const force = arguments.len == 3 and is(arguments[0], "-sf");
    if (!force and !(arguments.len == 3 and is(arguments[0], "-s"))) refuse(&.{"ln takes -s or -sf, a target and a link"});
    if (!live) return 0;
    const target = arguments[1];
    const link = arguments[2];
    var why = linux.errno(linux.symlinkat(target, linux.AT.FDCWD, link));
    if (why == .EXIST and force) {
        why = linux.errno(linux.unlinkat(linux.AT.FDCWD, link, 0));
        if (why == .SUCCESS) why = linux.errno(linux.symlinkat(target, linux.AT.FDCWD, link));
    }
    return if (why == .SUCCESS) 0 else failed("ln", link, why);
}

fn sleep(arguments: []const Word, live: bool) u8 {
    const forever = arguments.len == 1 and is(arguments[0], "infinity");
    const seconds = if (arguments.len == 1) number(arguments[0]) else null;
    if (!forever and seconds == null) refuse(&.{"sleep takes a whole number of seconds, or infinity"});
    if (live) wait(seconds);
    return 0;
}

/// Signals wait until `wait` looks at them, because the kernel drops what process 1 neither blocks nor handles. Children,
/// which process 1 inherits from `docker exec` and the like, are reaped by the kernel.
fn receiveSignals() void {
    _ = linux.sigprocmask(linux.SIG.BLOCK, &endings(), null);
    const ignore = linux.Sigaction{ .handler = .{ .handler = linux.SIG.IGN }, .mask = linux.sigemptyset(), .flags = 0 };
    _ = linux.sigaction(.CHLD, &ignore, null);
}

fn endings() linux.sigset_t {
    var set = linux.sigemptyset();
    for ([_]linux.SIG{ .HUP, .INT, .QUIT, .TERM }) |one| linux.sigaddset(&set, one);
    return set;
}

/// Sleep for so many seconds, or for ever if that is null. A signal that asks the process to end ends it, as 128 + signal.
fn wait(seconds: ?u32) void {
    const time = linux.timespec{ .sec = seconds orelse 0, .nsec = 0 };
    const limit: usize = if (seconds == null) 0 else @intFromPtr(&time);
    while (true) {
        const got = linux.syscall4(.rt_sigtimedwait, @intFromPtr(&endings()), 0, limit, @sizeOf(linux.sigset_t));
        switch (linux.errno(got)) {
            .SUCCESS => linux.exit_group(128 + @as(i32, @intCast(got))),
            .AGAIN => return,
            else => {}, // stopped and continued: the time begins again
        }
    }
}

fn is(one: []const u8, other: []const u8) bool {
    return std.mem.eql(u8, one, other);
}

fn endsWord(character: u8) bool {
    return switch (character) {
        ' ', ';', '&', '|', '(', ')' => true,
        else => false,
    };
}

/// A whole number below 1,000,000,000, or null.
fn number(text: []const u8) ?u32 {
    if (text.len == 0 or text.len > 9) return null;
    var value: u32 = 0;
    for (text) |digit| {
        if (digit < '0' or digit > '9') return null;
        value = value * 10 + (digit - '0');
    }
    return value;
}

fn decimal(value: usize, digits: *[20]u8) []const u8 {
    var rest = value;
    var at: usize = digits.len;
    while (true) {
        at -= 1;
        digits[at] = '0' + @as(u8, @intCast(rest % 10));
        rest /= 10;
        if (rest == 0) return digits[at..];
    }
}

fn failed(command: []const u8, path: []const u8, why: linux.E) u8 {
    var digits: [20]u8 = undefined;
    say(&.{ command, ": ", path, ": " });
    switch (why) {
        .ACCES, .PERM => say(&.{"permission denied"}),
        .EXIST => say(&.{"it is there already"}),
        .ISDIR => say(&.{"it is a folder, and only a link is replaced"}),
        .NOENT => say(&.{"no such file or folder"}),
        .NOTDIR => say(&.{"a part of the path is not a folder"}),
        .ROFS => say(&.{"the file system is read-only"}),
        else => say(&.{ "error ", decimal(@intFromEnum(why), &digits) }),
    }
    say(&.{"\n"});
    return 1;
}

fn refuse(why: []const []const u8) noreturn {
    say(&.{"sh: refused: "});
    say(why);
    say(&.{
        "\nThis image holds a model, and its shell understands only what KServe runs beside one: echo, exit, [, ln -s, ls and " ++
            "sleep, joined by && || ; ( ) and until.\nFor other commands, push the model with `carwright push --base busybox`.\n",
    });
    linux.exit_group(2);
}

fn say(parts: []const []const u8) void {
    for (parts) |part| _ = writeAll(2, part);
}

fn writeAll(file: i32, bytes: []const u8) bool {
    var done: usize = 0;
    while (done < bytes.len) {
        const wrote = linux.write(file, bytes[done..].ptr, bytes.len - done);
        switch (linux.errno(wrote)) {
            .SUCCESS => done += wrote,
            .INTR => {},
            else => return false,
        }
    }
    return true;
}
