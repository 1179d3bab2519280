# shellcheck shell=bash
# Sourced by whatever installs torch: a machine without an NVIDIA GPU gets no CUDA that nobody has asked for.
# Usage: . scripts/torch.sh; install_cpu_torch PYTHON [options of pip install]
torch_version="2.13.0"

# The CPU build, under its own name or, as on some indexes, the plain one. Where pip knows only a build that brings CUDA
# along (5 GB), this ends with the two commands to choose between; ALLOW_CUDA=1 takes it.
install_cpu_torch() {
    local pip=("$1" -m pip --disable-pip-version-check install) options=("${@:2}") would
    if "${pip[@]}" --quiet "${options[@]}" "torch==$torch_version+cpu" 2>/dev/null; then return; fi
    if [ "${ALLOW_CUDA:-0}" != 1 ]; then
        would="$("${pip[@]}" --dry-run "${options[@]}" "torch==$torch_version")" || exit 1
        if grep -qE '(^| )(nvidia|cuda)-' <<<"$would"; then
            refuse_cuda
            exit 1
        fi
    fi
    "${pip[@]}" --quiet "${options[@]}" "torch==$torch_version"
}

refuse_cuda() {
    cat >&2 <<EOF
egrc: error: pip offers torch $torch_version with CUDA only, which is 5 GB that this machine has no use for: nvidia-smi is not here. Take one:
  PIP_EXTRA_INDEX_URL=URL bash $0    the CPU build; URL is PyTorch's index of CPU builds (the --index-url of its installation page, compute platform CPU)
  ALLOW_CUDA=1 bash $0    the build with CUDA, which runs on the CPU, too
EOF
}
