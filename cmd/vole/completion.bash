# Completion of vole for bash 3.2 and later. It needs nothing but bash.

# __vole_split sets words to the words of the command line up to the cursor, without their
# quotes; quote to the quote that is open at the cursor; and kept to how many characters of
# the last word readline leaves alone, which are those before that quote or, without one,
# up to the last character that breaks words. Parameters and ~ are expanded, and nothing
# else is: a line is never evaluated.
__vole_split() {
    local line=$1 i c word= begun= before=0 name='^\$(\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))'
    for ((i = 0; i < ${#line}; i++)); do
        c=${line:i:1}
        if [[ $quote == "'" && $c != "'" ]]; then
            word+=$c
        elif [[ $c == \\ ]]; then
            ((i++))
            # Between double quotes it is a character like others before most.
            [[ -n $quote && ${line:i:1} != [\"\\\$\`] ]] && word+=$c
            word+=${line:i:1} begun=1
        elif [[ -n $quote && $c == "$quote" ]]; then
            quote=
        elif [[ -z $quote && $c == [\"\'] ]]; then
            quote=$c before=${#word} begun=1
        elif [[ $c == '$' && ${line:i} =~ $name ]]; then
            c=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
            word+=${!c} begun=1
            ((i += ${#BASH_REMATCH[0]} - 1))
        elif [[ -z $quote && $c == [[:space:]] ]]; then
            [[ -n $begun ]] && words+=("$word")
            word= begun= kept=0
        elif [[ -z $begun && $c == '~' && ${line:i+1:1} == / ]]; then
            word=$HOME begun=1
        else
            word+=$c begun=1
            [[ -z $quote && $c == [:=@] && $COMP_WORDBREAKS == *"$c"* ]] && kept=${#word}
        fi
    done
    words+=("$word")
    [[ -z $quote ]] || kept=$before
}

# __vole_replies fills COMPREPLY with those of the answers, one a line with its description
# behind a tab, that continue the current word.
__vole_replies() {
    local line reply tab=$'\t' longest=0 i descriptions=()
    while IFS= read -r line; do
        reply=$flag${line%%$tab*}
        [[ -n $line && $reply == "$current"* && -n ${reply:kept} ]] || continue
        reply=${reply:kept}
        # Readline only lists the replies when COMP_TYPE is 63 (?).
        [[ -n $quote || $COMP_TYPE == 63 ]] || printf -v reply %q "$reply"
        COMPREPLY+=("$reply")
        [[ $line == *$tab* ]] && line=${line#*$tab} || line=
        descriptions+=("$line")
        ((${#reply} > longest)) && longest=${#reply}
    done
    # Descriptions are shown in lists (63: ?, 33: !, 64: @) of more than one.
    [[ $COMP_TYPE == 63 || $COMP_TYPE == 33 || $COMP_TYPE == 64 ]] && ((${#COMPREPLY[@]} > 1)) || return 0
    for i in "${!COMPREPLY[@]}"; do
        [[ -n ${descriptions[i]} ]] || continue
        printf -v line "%-${longest}s  (%s)" "${COMPREPLY[i]}" "${descriptions[i]}"
        COMPREPLY[i]=${line:0:${COLUMNS:-80}-1}
    done
}

__start_vole() {
    local IFS=$' \t\n' words=() quote= kept=0 current flag= program out directive
    COMPREPLY=()
    __vole_split "${COMP_LINE:0:COMP_POINT}"
    ((${#words[@]} > 1)) || return 0
    current=${words[${#words[@]}-1]}
    program=${words[0]}
    case $(type -t "$program") in
    file | function) ;;
    *) program=vole ;; # an alias
    esac

    # vole answers a --flag=value with values.
    [[ $current == -*=* ]] && flag=${current%%=*}=
    out=$("$program" __complete "${words[@]:1}" 2>/dev/null)
    directive=${out##*:}
    out=${out%:*}

    __vole_replies <<<"$out"

    # The directive is a sum: 2 no space behind a reply, 4 no files, 16 directories only.
    [[ $directive =~ ^[0-9]+$ && $(type -t compopt) == builtin ]] || return 0
    ((directive & 2)) && compopt -o nospace
    ((directive & 4)) && compopt +o default
    ((directive & 16)) && compopt +o default -o dirnames
    return 0
}

complete -o default -F __start_vole vole
