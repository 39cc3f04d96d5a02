//! What a CPU can do, as far as another must be able to do it too: guests go from CPU to CPU, and what the first CPU has is what
//! they were told of and what the hypervisor relies on.
#![forbid(unsafe_code)]

use core::fmt;

use crate::registers::CpuidResult;

/// A register of an answer of CPUID.
type Register = fn(&CpuidResult) -> u32;

const EAX: Register = |answer| answer.eax;
const EBX: Register = |answer| answer.ebx;
const ECX: Register = |answer| answer.ecx;
const EDX: Register = |answer| answer.edx;

/// The words of feature flags: leaf, subleaf, register with its name, and the flags that do not count, since they follow from what
/// runs on the CPU or where it stands among others. SPEC: Intel SDM volume 2, CPUID.
const WORDS: [(u32, u32, Register, &str, u32); 11] = [
    // OSXSAVE.
    (1, 0, ECX, "ecx", 1 << 27),
    // APIC: off until it is enabled.
    (1, 0, EDX, "edx", 1 << 9),
    (7, 0, EBX, "ebx", 0),
    // OSPKE.
    (7, 0, ECX, "ecx", 1 << 4),
    // Several kinds of cores.
    (7, 0, EDX, "edx", 1 << 15),
    (0xd, 0, EAX, "eax", 0),
    (0xd, 1, EAX, "eax", 0),
    (0x8000_0001, 0, ECX, "ecx", 0),
    // APIC, on AMD.
    (0x8000_0001, 0, EDX, "edx", 1 << 9),
    (0x8000_0007, 0, EDX, "edx", 0),
    (0x8000_0008, 0, EBX, "ebx", 0),
];

/// The features of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    words: [u32; WORDS.len()],
    address_bits: u8,
}

impl Features {
    /// Asks a CPU by its CPUID.
    pub fn of(cpuid: impl Fn(u32, u32) -> CpuidResult) -> Self {
        let last = |leaf: u32| cpuid(leaf & 0x8000_0000, 0).eax;
        let ask = |leaf: u32, subleaf| {
            if leaf <= last(leaf) {
                cpuid(leaf, subleaf)
            } else {
                CpuidResult::default()
            }
        };
        Self {
            words: WORDS.map(|(leaf, subleaf, register, _, others)| {
                register(&ask(leaf, subleaf)) & !others
            }),
            address_bits: ask(0x8000_0008, 0).eax as u8,
        }
    }

    /// The first thing that `other` has and this CPU lacks.
    pub fn lacks(&self, other: &Self) -> Option<Lack> {
        let words = self.words.iter().zip(&other.words).enumerate();
        for (index, (mine, theirs)) in words {
            let flags = theirs & !mine;
            if flags != 0 {
                let word = index as u32;
                return Some(Lack { word, flags });
            }
        }
        (self.address_bits < other.address_bits).then_some(Lack {
            word: Lack::ADDRESS_BITS,
            flags: 0,
        })
    }
}

/// What a CPU lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lack {
    /// Which of [`WORDS`], or one past them.
    word: u32,
    flags: u32,
}

impl Lack {
    const ADDRESS_BITS: u32 = WORDS.len() as u32;

    /// In a word, to be handed to another CPU. Never 0.
    pub const fn bits(self) -> u64 {
        (self.word as u64).wrapping_add(1) << 32 | self.flags as u64
    }

    /// The opposite of [`Self::bits`]; `None` for 0.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match ((bits >> 32) as u32).checked_sub(1) {
            Some(word) => Some(Self {
                word,
                flags: bits as u32,
            }),
            None => None,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS.get(self.word as usize) {
            Some((leaf, subleaf, _, register, _)) => write!(
                f,
                "features {:#x} of CPUID {leaf:#x}.{subleaf}, {register}",
                self.flags
            ),
            None => f.write_str("bits of machine addresses"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    /// A CPU whose answers are all ones, but for what is taken away; 46 bits of machine address.
    fn cpu(taken: impl Fn(u32, u32) -> CpuidResult) -> Features {
        Features::of(|leaf, subleaf| {
            let without = taken(leaf, subleaf);
            CpuidResult {
                eax: match leaf {
                    0 | 0x8000_0000 => leaf + 0x1f,
                    0x8000_0008 => 46,
                    _ => u32::MAX,
                } & !without.eax,
                ebx: !without.ebx,
                ecx: !without.ecx,
                edx: !without.edx,
            }
        })
    }

    #[test]
    fn what_one_has_and_the_other_lacks_is_named() {
        let full = cpu(|_, _| CpuidResult::default());
        assert_eq!(full.lacks(&full), None);
        let no_avx2 = cpu(|leaf, subleaf| CpuidResult {
            ebx: u32::from((leaf, subleaf) == (7, 0)) << 5,
            ..CpuidResult::default()
        });
        let lack = no_avx2.lacks(&full).unwrap();
        assert_eq!(lack.to_string(), "features 0x20 of CPUID 0x7.0, ebx");
        assert_eq!(Lack::from_bits(lack.bits()), Some(lack));
        assert_eq!(full.lacks(&no_avx2), None, "more is welcome");
        let short = cpu(|leaf, _| CpuidResult {
            eax: u32::from(leaf == 0x8000_0008) << 1,
            ..CpuidResult::default()
        });
        let lack = short.lacks(&full).unwrap();
        assert_eq!(lack.to_string(), "bits of machine addresses");
        assert_eq!(Lack::from_bits(lack.bits()), Some(lack));
        assert_eq!(Lack::from_bits(0), None);
    }

    #[test]
    fn each_word_counts() {
        let full = cpu(|_, _| CpuidResult::default());
        for (index, (leaf, subleaf, ..)) in WORDS.into_iter().enumerate() {
            let ones = CpuidResult {
                eax: u32::from(leaf == 0xd) * u32::MAX,
                ebx: u32::MAX,
                ecx: u32::MAX,
                edx: u32::MAX,
            };
            let less = cpu(|asked, sub| {
                if (asked, sub) == (leaf, subleaf) {
                    ones
                } else {
                    CpuidResult::default()
                }
            });
            let lack = less.lacks(&full).unwrap();
            let first = WORDS
                .iter()
                .position(|word| (word.0, word.1) == (leaf, subleaf));
            assert_eq!(Some(lack.word as usize), first, "word {index}");
        }
    }

    #[test]
    fn what_follows_from_the_state_of_a_cpu_does_not_count() {
        let full = cpu(|_, _| CpuidResult::default());
        let asleep = cpu(|leaf, _| CpuidResult {
            ecx: u32::from(leaf == 1) << 27 | u32::from(leaf == 7) << 4,
            edx: u32::from(leaf == 1 || leaf == 0x8000_0001) << 9,
            ..CpuidResult::default()
        });
        assert_eq!(asleep.lacks(&full), None);
    }

    #[test]
    fn leaves_that_do_not_exist_are_not_read() {
        let old = Features::of(|leaf, _| match leaf {
            0 => CpuidResult {
                eax: 1,
                ..CpuidResult::default()
            },
            0x8000_0000 => CpuidResult {
                eax: 0x8000_0001,
                ..CpuidResult::default()
            },
            1 | 0x8000_0001 => CpuidResult::default(),
            _ => panic!("leaf {leaf:#x} does not exist"),
        });
        assert_eq!(
            old,
            Features {
                words: [0; WORDS.len()],
                address_bits: 0
            }
        );
    }
}
