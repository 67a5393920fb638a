//! Exact values of mathematical expressions: sums of products of rational numbers, roots of primes, pi and variables.
//!
//! A value is a map from monomials to nonzero rational coefficients, so equal values are equal maps: sqrt 8 = 2 sqrt 2, (x + 1)^2 = x^2 + 2
//! x + 1. Exponents of primes are between 0 and 1; integer parts move into the coefficient.

use num_bigint::BigInt;
use num_rational::{BigRational, Ratio};
use num_traits::{One, Signed, ToPrimitive, Zero};
use std::collections::BTreeMap;

/// Larger numbers, longer sums and higher powers are not computed, to bound the time for a model's text.
const MOST_BITS: u64 = 8192;
const MOST_TERMS: usize = 64;
const MOST_POWER: i64 = 4096;
/// Maximum degree of roots.
const MOST_ROOT: i64 = 12;
/// Prime factors below this are found by trial division.
const MOST_DIVISOR: u64 = 1 << 16;

/// The base of a power in a monomial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PowerBase {
    Prime(u64),
    Symbol(String),
}

type Monomial = BTreeMap<PowerBase, Ratio<i64>>;

/// An exact value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactValue(BTreeMap<Monomial, BigRational>);

impl ExactValue {
    /// A rational number.
    pub fn rational(value: BigRational) -> Self {
        Self(if value.is_zero() { BTreeMap::new() } else { BTreeMap::from([(Monomial::new(), value)]) })
    }

    /// A variable, or a constant such as `pi`.
    pub fn symbol(name: &str) -> Self {
        let monomial = Monomial::from([(PowerBase::Symbol(name.to_owned()), Ratio::one())]);
        Self(BTreeMap::from([(monomial, BigRational::one())]))
    }

    /// The number, if the value is rational.
    pub fn as_rational(&self) -> Option<BigRational> {
        match self.0.len() {
            0 => Some(BigRational::zero()),
            1 => self.0.get(&Monomial::new()).cloned(),
            _ => None,
        }
    }

    /// Whether the sum of both has fewer terms than they have together: an unfinished calculation.
    pub fn merges_with(&self, other: &Self) -> bool {
        self.0.is_empty() || other.0.is_empty() || self.0.keys().any(|monomial| other.0.contains_key(monomial))
    }

    /// The sum; `None` if it has too many terms.
    pub fn plus(mut self, other: Self) -> Option<Self> {
        for (monomial, coefficient) in other.0 {
            self.add(monomial, coefficient)?;
        }
        Some(self)
    }

    fn add(&mut self, monomial: Monomial, coefficient: BigRational) -> Option<()> {
        let sum = self.0.remove(&monomial).unwrap_or_else(BigRational::zero) + coefficient;
        if !sum.is_zero() {
            self.0.insert(monomial, sum);
        }
        (self.0.len() <= MOST_TERMS).then_some(())
    }

    /// The negated value.
    pub fn negated(self) -> Self {
        Self(self.0.into_iter().map(|(monomial, coefficient)| (monomial, -coefficient)).collect())
    }

    /// The product; `None` if it is too large.
    pub fn times(&self, other: &Self) -> Option<Self> {
        let mut product = Self(BTreeMap::new());
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                let (monomial, factor) = combined(a, b)?;
                product.add(monomial, small(x * y * factor)?)?;
            }
        }
        Some(product)
    }

    /// The quotient; `None` if the divisor is zero or a sum.
    pub fn over(&self, divisor: &Self) -> Option<Self> {
        self.times(&divisor.power(&-BigRational::one())?)
    }

    /// A power; `None` if it is not a value of this kind (0 to the -1, even roots of negative numbers), or too large.
    pub fn power(&self, exponent: &BigRational) -> Option<Self> {
        let (above, below) = (exponent.numer().to_i64()?, exponent.denom().to_i64()?);
        if above.abs() > MOST_POWER || below > MOST_ROOT {
            return None;
        }
        if self.0.len() > 1 {
            let whole = (below == 1 && (0..=16).contains(&above)).then_some(above)?;
            return (0..whole).try_fold(Self::rational(BigRational::one()), |product, _| product.times(self));
        }
        let Some((monomial, coefficient)) = self.0.iter().next() else {
            return exponent.is_positive().then(|| self.clone());
        };
        let mut out = rational_power(coefficient, above, below)?;
        for (base, of) in monomial {
            let raised = normal(base, of * Ratio::new(above, below))?;
            out = out.times(&raised)?;
        }
        Some(out)
    }

    /// An approximation; `None` for a value with variables.
    pub fn approximate(&self) -> Option<f64> {
        let mut sum = 0.0;
        for (monomial, coefficient) in &self.0 {
            let mut product = coefficient.to_f64()?;
            for (base, exponent) in monomial {
                let base = match base {
                    PowerBase::Prime(prime) => *prime as f64,
                    PowerBase::Symbol(name) if name == "pi" => std::f64::consts::PI,
                    PowerBase::Symbol(_) => return None,
                };
                product *= base.powf(exponent.to_f64()?);
            }
            sum += product;
        }
        Some(sum)
    }
}

/// A power in normal form: the integer part of a prime's exponent becomes a coefficient.
fn normal(base: &PowerBase, exponent: Ratio<i64>) -> Option<ExactValue> {
    let one = BigRational::one();
    let (rest, coefficient) = match base {
        PowerBase::Symbol(_) => (exponent, one),
        PowerBase::Prime(prime) => {
            let whole = exponent.floor();
            (exponent - whole, whole_power(&BigRational::from_integer(BigInt::from(*prime)), whole.to_integer())?)
        }
    };
    let monomial = if rest.is_zero() { Monomial::new() } else { Monomial::from([(base.clone(), rest)]) };
    Some(ExactValue(BTreeMap::from([(monomial, coefficient)])))
}

/// The product of two monomials, and the coefficient split off.
fn combined(a: &Monomial, b: &Monomial) -> Option<(Monomial, BigRational)> {
    let (mut product, mut coefficient) = (a.clone(), BigRational::one());
    for (base, exponent) in b {
        let sum = product.remove(base).unwrap_or_else(Ratio::zero) + exponent;
        let (monomial, factor) = normal(base, sum)?.0.into_iter().next()?;
        product.extend(monomial);
        coefficient *= factor;
    }
    (product.len() <= MOST_TERMS).then_some((product, coefficient))
}

fn small(value: BigRational) -> Option<BigRational> {
    (value.numer().bits().max(value.denom().bits()) <= MOST_BITS).then_some(value)
}

fn whole_power(value: &BigRational, exponent: i64) -> Option<BigRational> {
    let bits = value.numer().bits().max(value.denom().bits());
    if value.is_zero() && exponent < 0 || bits.saturating_mul(exponent.unsigned_abs()) > MOST_BITS {
        return None;
    }
    Some(num_traits::Pow::pow(value, i32::try_from(exponent).ok()?))
}

/// A rational number to the power of above / below.
fn rational_power(value: &BigRational, above: i64, below: i64) -> Option<ExactValue> {
    if below == 1 {
        return whole_power(value, above).map(ExactValue::rational);
    }
    if value.is_negative() && below % 2 == 0 {
        return None;
    }
    let sign = if value.is_negative() && above % 2 != 0 { -BigRational::one() } else { BigRational::one() };
    let mut out = ExactValue::rational(sign);
    for (part, above) in [(value.numer().abs(), above), (value.denom().clone(), -above)] {
        out = out.times(&root(&part, above, below)?)?;
    }
    Some(out)
}

/// A positive integer to the power of above / below: exact if possible, else as prime factors.
fn root(of: &BigInt, above: i64, below: i64) -> Option<ExactValue> {
    let exact = of.nth_root(u32::try_from(below).ok()?);
    if num_traits::Pow::pow(&exact, u32::try_from(below).ok()?) == *of {
        return whole_power(&BigRational::from_integer(exact), above).map(ExactValue::rational);
    }
    let mut rest = of.to_u64()?;
    let mut out = ExactValue::rational(BigRational::one());
    let mut factor = |prime: u64, count: i64| {
        let raised = normal(&PowerBase::Prime(prime), Ratio::new(count.checked_mul(above)?, below))?;
        out = out.times(&raised)?;
        Some(())
    };
    let mut divisor = 2;
    while divisor * divisor <= rest {
        if divisor > MOST_DIVISOR {
            return None;
        }
        let mut count = 0;
        while rest.is_multiple_of(divisor) {
            rest /= divisor;
            count += 1;
        }
        if count > 0 {
            factor(divisor, count)?;
        }
        divisor += 1;
    }
    if rest > 1 {
        factor(rest, 1)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(above: i64, below: i64) -> BigRational {
        BigRational::new(above.into(), below.into())
    }

    fn v(above: i64, below: i64) -> ExactValue {
        ExactValue::rational(n(above, below))
    }

    #[test]
    fn equal_values_have_equal_maps() {
        let sqrt = |of: i64| v(of, 1).power(&n(1, 2)).unwrap();
        assert_eq!(sqrt(16), v(4, 1));
        assert_eq!(sqrt(8), v(2, 1).times(&sqrt(2)).unwrap());
        assert_eq!(sqrt(2).times(&sqrt(3)).unwrap(), sqrt(6));
        assert_eq!(v(1, 1).over(&sqrt(2)).unwrap(), sqrt(2).over(&v(2, 1)).unwrap());
        assert_eq!(v(-8, 27).power(&n(1, 3)), Some(v(-2, 3)));
        assert_eq!(v(8, 1).power(&n(-2, 3)), Some(v(1, 4)));
        assert_eq!(v(-1, 1).power(&n(1, 2)), None);
        assert_eq!((v(0, 1).power(&n(-1, 1)), v(1, 1).over(&v(0, 1))), (None, None));
        let x = ExactValue::symbol("x");
        let sum = x.clone().plus(v(1, 1)).unwrap();
        let square = sum.power(&n(2, 1)).unwrap();
        let spelt = x.times(&x).unwrap().plus(v(2, 1).times(&x).unwrap()).and_then(|v2| v2.plus(v(1, 1))).unwrap();
        assert_eq!(square, spelt);
        assert_eq!(v(5, 1).plus(v(-5, 1)).unwrap().as_rational(), Some(n(0, 1)));
        assert_eq!((square.as_rational(), square.approximate()), (None, None));
        let approximate = v(2, 3).times(&ExactValue::symbol("pi")).unwrap().approximate().unwrap();
        assert!((approximate - 2.094_395_102).abs() < 1e-9);
    }

    #[test]
    fn expensive_values_are_not_computed() {
        assert_eq!(v(10, 1).power(&n(4000, 1)), None);
        assert_eq!(v(2, 1).power(&n(4000, 1)).and_then(|p| p.power(&n(4000, 1))), None);
        // A product of two primes above the limit of trial division.
        assert!(v(50_021 * 50_023, 1).power(&n(1, 2)).is_some());
        assert_eq!(v(2_000_003 * 2_000_029, 1).power(&n(1, 2)), None);
        let sum = |name: &str| ExactValue::symbol(name).plus(v(1, 1)).unwrap();
        let many = ["a", "b", "c", "d", "e", "f", "g"].into_iter().try_fold(v(1, 1), |product, name| product.times(&sum(name)));
        assert_eq!(many, None);
    }
}
