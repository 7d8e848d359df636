package sandbox

const sysModifyLDT = sysUnknown // an x86 has it
