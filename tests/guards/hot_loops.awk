# Reads `objdump -d` and fails when a hot loop of a micro-kernel touches the stack: then the accumulators of the tile do
# not fit the registers. A loop is what lies between a backward branch and its target, without a return (a jump back from
# behind the return is a rare case put aside); it is hot when it holds multiply-adds and no other loop.
#   awk -v arch=x86|arm -v isa=NAME -f hot_loops.awk
function finish_function(    i, n_hot)
{
    if (name == "")
        return
    n_functions++
    for (i = 0; i < n_loops; i++) {
        if (is_innermost(i) && has_fma(i)) {
            check_loop(i)
            n_hot++
        }
    }
    if (n_hot == 0) {
        printf "%s: no loop with multiply-adds found\n", name
        n_faults++
    }
    n_hot_loops += n_hot
}
function is_innermost(i,    j)
{
    for (j = 0; j < n_loops; j++)
        if (loop_first[j] >= loop_first[i] && loop_last[j] <= loop_last[i] &&
            (loop_first[j] != loop_first[i] || loop_last[j] != loop_last[i]))
            return 0
    return 1
}
function has_fma(i,    j)
{
    for (j = loop_first[i]; j <= loop_last[i]; j++)
        if (is_fma(text[j]))
            return 1
    return 0
}
function check_loop(i,    j)
{
    for (j = loop_first[i]; j <= loop_last[i]; j++)
        if (is_call(text[j]) || is_stack(text[j]) || is_stack_by_pointer(j)) {
            printf "%s: in a loop: %s\n", name, text[j]
            n_faults++
        }
}
function is_fma(line) { return line ~ (arch == "x86" ? "^vfn?m(add|sub)" : "^f(ml[as]|n?m(add|sub))") }
function is_call(line) { return line ~ (arch == "x86" ? "^call" : "^blr?[ \t]") }
# A frame pointer counts only where the function sets one up: else the register is one like any other.
function is_stack(line)
{
    if (arch == "x86")
        return line ~ /\(%rsp/ || (has_frame && line ~ /\(%rbp/)
    return line ~ /\[sp/ || (has_frame && line ~ /\[x29/)
}
# Memory behind a register that was last set to an address on the stack: an array that left the registers.
function is_stack_by_pointer(j,    rest, register)
{
    rest = text[j]
    while (match(rest, arch == "x86" ? "[(,]%r[0-9a-z]+[,)]" : "\\[x[0-9]+")) {
        register = substr(rest, RSTART, RLENGTH)
        rest = substr(rest, RSTART + RLENGTH - 1)
        gsub(/[^a-z0-9]/, "", register)
        if (points_at_stack(register, j - 1))
            return 1
    }
    return 0
}
# Writing the lower half of a register (xor %eax,%eax) sets all of it.
function points_at_stack(register, j,    half, set)
{
    half = register ~ /^r[0-9]/ ? register "d" : "e" substr(register, 2)
    set = arch == "x86" ? ",%(" register "|" half ")$" : "^[a-z]+[ \t]+" register ","
    for (; j >= 0; j--)
        if (text[j] ~ set && text[j] !~ /^(cmp|test|add|sub|str|stp|inc|v?mov[a-z]*ps) /)
            return arch == "x86" ? text[j] ~ /^lea .*\(%rsp/ : text[j] ~ /^(add|mov)[ \t]+x[0-9]+, sp/
    return 0
}
function hex(digits,    i, value)
{
    for (i = 1; i <= length(digits); i++)
        value = value * 16 + index("0123456789abcdef", substr(digits, i, 1)) - 1
    return value
}
/^[0-9a-f]+ <.*>:$/ {
    finish_function()
    name = $2
    gsub(/[<>:]/, "", name)
    if (name !~ /_micro_/)
        name = ""
    n_lines = n_loops = has_frame = 0
    last_return = -1
    next
}
name != "" && /^ *[0-9a-f]+:/ {
    address = $1
    sub(/:/, "", address)
    line = $0
    sub(/^ *[0-9a-f]+:[ \t]*/, "", line)
    text[n_lines] = line
    line_of[name, hex(address)] = n_lines
    if (line ~ /^ret/)
        last_return = n_lines
    if (line ~ /^mov +%rsp,%rbp/ || line ~ /^mov[ \t]+x29, sp/)
        has_frame = 1
    if (arch == "x86" ? line ~ /^j[a-z]+ / : line ~ /^(b|b\.[a-z]+|cbn?z|tbn?z)[ \t]/) {
        target = line
        sub(/ *<.*/, "", target)
        sub(/.*[ \t,]/, "", target)
        if (((name, hex(target)) in line_of) && line_of[name, hex(target)] > last_return) {
            loop_first[n_loops] = line_of[name, hex(target)]
            loop_last[n_loops++] = n_lines
        }
    }
    n_lines++
}
END {
    finish_function()
    printf "%s: %d micro-kernels, %d loops with multiply-adds\n", isa, n_functions, n_hot_loops
    if (n_functions == 0) {
        print "no function named *_micro_* found: nothing was checked"
        n_faults++
    }
    exit n_faults > 0
}
